use serde_json::json;

use super::*;

fn check(fields: &Value, rule: &str) -> Vec<Check> {
    let all = Rules::built_in().unwrap().check(fields, Written::default());
    all.into_iter().filter(|check| check.rule == rule).collect()
}

fn status(fields: &Value, rule: &str) -> Status {
    let checks = check(fields, rule);
    assert_eq!(checks.len(), 1, "{rule}: {checks:?}");
    checks[0].status
}

#[test]
fn line_items_make_the_subtotal() {
    let mut invoice = json!({
        "line_items": [{"quantity": 3, "unit_price": "33.10", "amount": 99.3}, {"amount": "0.20"}],
        "subtotal": "99.50",
    });
    assert_eq!(status(&invoice, "invoice.line_items"), Status::Passed);
    assert_eq!(status(&invoice, "invoice.line_item"), Status::Passed);
    invoice["subtotal"] = "99.52".into();
    let failed = check(&invoice, "invoice.line_items").remove(0);
    assert_eq!(failed.status, Status::Failed);
    assert_eq!(
        (failed.expected.as_deref(), failed.actual.as_deref()),
        (Some("99.5"), Some("99.52"))
    );
    assert_eq!(failed.fields, ["line_items[0].amount", "line_items[1].amount", "subtotal"]);
    // What is not known is not taken as nothing.
    invoice["line_items"][1]["amount"] = Value::Null;
    let checks = check(&invoice, "invoice.line_items");
    assert_eq!(checks[0].status, Status::NotApplicable);
    assert_eq!(checks[0].reason.as_deref(), Some("`line_items[1].amount` is null"));
}

#[test]
fn every_wrong_item_is_a_line_of_its_own() {
    let items = json!({"line_items": [
        {"quantity": 2, "unit_price": 5, "amount": 10},
        {"quantity": 2, "unit_price": 5, "amount": 11},
        {"quantity": null, "unit_price": 5, "amount": 11},
        {"quantity": "1,5", "unit_price": "2,50", "amount": "3,80"},
    ]});
    let wrong = check(&items, "invoice.line_item");
    let fields: Vec<&str> = wrong.iter().map(|check| check.fields[2].as_str()).collect();
    assert_eq!(fields, ["line_items[1].amount", "line_items[3].amount"]);
    assert_eq!(wrong[1].expected.as_deref(), Some("3.75"));
}

#[test]
fn subtotal_and_taxes_make_the_total() {
    let invoice = json!({
        "subtotal": "1.212,90",
        "taxes": [{"base": "1.212,90", "rate": "19 %", "amount": "230,45"}],
        "total": "1.443,35",
    });
    for rule in ["invoice.total", "invoice.tax_rate", "invoice.tax_bases"] {
        assert_eq!(status(&invoice, rule), Status::Passed, "{rule}");
    }
    let fraction = json!({"taxes": [{"base": 100, "rate": 0.19, "amount": 19}]});
    assert_eq!(status(&fraction, "invoice.tax_rate"), Status::Passed);
    let wrong = json!({"net": 100, "vat": 19, "gross": 119.02});
    assert_eq!(status(&wrong, "invoice.total"), Status::Failed);
}

#[test]
fn an_amount_that_means_two_things_is_not_guessed() {
    let same = |mark: Option<DecimalMark>, total: &str| {
        let fields = json!({"net": "1.000", "vat": "0", "total": total});
        let written = Written { mark, order: None };
        let checks = Rules::built_in().unwrap().check(&fields, written);
        checks.into_iter().find(|check| check.rule == "invoice.total").unwrap().status
    };
    // Both meanings agree with themselves.
    assert_eq!(same(None, "1.000"), Status::Passed);
    // 1000 if thousands are parted by dots, 1 if not.
    assert_eq!(same(None, "1000"), Status::NotApplicable);
    assert_eq!(same(Some(DecimalMark::Comma), "1000"), Status::Passed);
    assert_eq!(same(Some(DecimalMark::Dot), "1000"), Status::Failed);
    // Wrong whatever is meant.
    assert_eq!(same(None, "7"), Status::Failed);
    // The other fields show it.
    assert_eq!(same(None, "1.000,00"), Status::Passed);
}

#[test]
fn debits_are_credits() {
    let mut journal = json!({"entries": [
        {"debit": "119.00", "credit": null},
        {"debit": null, "credit": "100.00"},
        {"debit": null, "credit": "19.00"},
    ]});
    assert_eq!(status(&journal, "statement.debits_are_credits"), Status::Passed);
    journal["entries"][2]["credit"] = "19.01".into();
    assert_eq!(status(&journal, "statement.debits_are_credits"), Status::Failed);
    journal["entries"] = json!([{"debit": null, "credit": null}]);
    assert_eq!(status(&journal, "statement.debits_are_credits"), Status::NotApplicable);
    let statement = json!({
        "opening_balance": "100.00", "closing_balance": "80.50",
        "transactions": [{"amount": "-20.00"}, {"amount": "0.50"}],
    });
    assert_eq!(status(&statement, "statement.balance"), Status::Passed);
}

#[test]
fn dates_are_days_in_their_order() {
    let dates = |date: &str, due: &str| json!({"invoice_date": date, "due_date": due});
    let ordered = |date, due| status(&dates(date, due), "invoice.due_after_issue");
    assert_eq!(ordered("2026-03-17", "2026-03-17"), Status::Passed);
    assert_eq!(ordered("17.03.2026", "31. März 2026"), Status::Passed);
    assert_eq!(ordered("2026-03-17", "2026-03-16"), Status::Failed);
    // 3 April or 4 March, before May in any case.
    assert_eq!(ordered("03/04/2026", "2026-05-01"), Status::Passed);
    assert_eq!(ordered("03/04/2026", "2026-03-20"), Status::NotApplicable);
    // The other date shows what comes first.
    assert_eq!(ordered("03/04/2026", "03/20/2026"), Status::Passed);
    let valid = check(&dates("2026-02-30", "03/04/2026"), "invoice.dates");
    assert_eq!((valid[0].status, valid[1].status), (Status::Failed, Status::Passed));
    assert_eq!(valid[0].reason.as_deref(), Some("no day of the calendar"));
    assert!(valid[1].reason.as_deref().unwrap().starts_with("ambiguous"));
}

#[test]
fn identifiers_have_their_check_digits() {
    let good = json!({"iban": "DE89 3704 0044 0532 0130 00", "vat_id": "DE136695976"});
    let wrong = json!({"iban": "DE88 3704 0044 0532 0130 00", "vat_id": "DE136695975"});
    for rule in ["invoice.iban", "invoice.vat_id"] {
        assert_eq!(status(&good, rule), Status::Passed, "{rule}");
        assert_eq!(status(&wrong, rule), Status::Failed, "{rule}");
    }
    let form = check(&json!({"vat_id": "IE6433435F"}), "invoice.vat_id");
    assert!(form[0].reason.as_deref().unwrap().contains("form alone"), "{form:?}");
}

#[test]
fn rules_speak_of_fields_that_were_asked_for() {
    assert_eq!(Rules::built_in().unwrap().check(&json!({"name": "x"}), Written::default()), []);
    let checks = Rules::built_in().unwrap().check(&json!({"total": null}), Written::default());
    assert!(!checks.is_empty() && checks.iter().all(|c| c.status == Status::NotApplicable));
}

#[test]
fn numbers_that_json_does_not_keep_are_not_compared() {
    let long = json!({"net": 1234567890123456.5, "vat": 0, "total": 1234567890123456.5});
    assert_eq!(status(&long, "invoice.total"), Status::NotApplicable);
    let whole = json!({"net": 9007199254740993_i64, "vat": 0, "total": 9007199254740992_i64});
    assert_eq!(status(&whole, "invoice.total"), Status::Failed);
}

#[test]
fn own_rules_are_added_and_take_the_place_of_others() {
    let own = "name = \"invoice\"\n[[rule]]\nname = \"total\"\ncheck = \"sum\"\nleft = [\"a\", \"-b?\"]\nright = [\"c\"]";
    let rules = Rules::built_in().unwrap().and(own).unwrap();
    let checks = rules.check(&json!({"a": 5, "b": 2, "c": 3, "total": 9}), Written::default());
    let total: Vec<&Check> = checks.iter().filter(|check| check.rule == "invoice.total").collect();
    assert_eq!((total.len(), total[0].status), (1, Status::Passed));
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    let rules = |rule: &str| {
        let text = format!("name = \"own\"\n[[rule]]\nname = \"x\"\n{rule}");
        Rules::built_in().unwrap().and(&text).unwrap_err().to_string()
    };
    assert!(rules("check = \"sum\"\nleft = [\"a\"]").contains("`own.x`: `right` names 0"));
    assert!(rules("check = \"sum\"\nleft = [\"a\"]\nright = [\"b..c\"]").contains("no path"));
    assert!(rules("check = \"guess\"").contains("unknown variant"));
    assert!(
        rules("check = \"date\"\nfields = [\"a\"]\ntolerance = \"1\"").contains("another check")
    );
    assert!(
        rules("check = \"sum\"\nleft = [\"a\"]\nright = [\"b\"]\ntolerance = \"1e3\"")
            .contains("no decimal")
    );
    assert!(rules("cheque = 1").contains("unknown field"));
}
