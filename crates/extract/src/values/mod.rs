//! What is written in documents, as values: amounts, dates, identifiers with check digits. A written form that can mean two
//! things is read as both; nothing is guessed here.

mod decimal;
mod amount;
mod date;
mod iban;
mod vat;

pub use amount::{Amount, DecimalMark, currency_code};
pub use date::{Date, DateOrder, Dates};
pub use decimal::Decimal;
pub use iban::check_iban;
pub use vat::{VatCheck, check_vat_id};

/// Why an identifier is not what it should be, in words.
pub type Wrong = String;
