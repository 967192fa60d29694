"""Locales: their labels (`locales/LANGUAGE.txt`), currencies, number and date styles, addresses."""

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "locales"


def _read_labels(language):
    """One `key: a|b|c` per line; month names are separated by spaces, as they hold no `|`."""
    labels = {}
    for line in (_FOLDER / f"{language}.txt").read_text(encoding="utf-8").splitlines():
        key, values = line.split(": ", 1)
        labels[key] = values.split(" " if key in ("months", "short") else "|")
    return labels


@dataclass(frozen=True)
class Locale:
    """What a country's documents share. `number` and `date` list the styles of `values`."""

    code: str
    labels: dict
    country: str
    currencies: tuple  # ISO codes, the usual one first
    number: tuple
    date: tuple
    legal: tuple
    cities: tuple
    streets: tuple  # "{}" is the house number
    postcode: str  # "9" a digit, "A" a letter
    address: str  # pattern of the line that holds the city
    phone: str
    tax_id: str
    iban: str

    def label(self, rng, key):
        """One synonym of a label."""
        return rng.choice(self.labels[key])


def _locale(code, **fields):
    return Locale(code=code, labels=_read_labels(code[:2]), **fields)


_EU_DATES = ("d.m.y", "d.m.y", "D.M.y", "d.m.yy", "d month y", "iso")

LOCALES = (
    _locale(
        "en-US", country="USA", currencies=("USD", "USD", "USD", "USD", "CAD"),
        number=("1,234.50", "1,234.50", "1234.50"),
        date=("m/d/y", "m/d/y", "M/D/y", "M/D/yy", "month d, y", "mon d, y", "iso", "m-d-y"),
        legal=("Inc.", "LLC", "Corp.", "Co.", "Ltd.", "Inc", ", Inc.", ", LLC", "LP", "PLLC"),
        cities=("Austin, TX", "Denver, CO", "Portland, OR", "Columbus, OH", "Tampa, FL",
                "Boise, ID", "Albany, NY", "Fresno, CA", "Madison, WI", "Tucson, AZ"),
        streets=("{} Main St", "{} Oak Avenue", "{} 5th Ave, Suite 12", "{} Maple Drive",
                 "{} W Elm Street", "{} Industrial Pkwy", "PO Box {}", "{} Lakeview Blvd"),
        postcode="99999", address="{city} {postcode}", phone="(999) 999-9999",
        tax_id="99-9999999", iban="999999999"),
    _locale(
        "en-GB", country="United Kingdom", currencies=("GBP", "GBP", "GBP", "EUR"),
        number=("1,234.50", "1,234.50", "1234.50"),
        date=("d/m/y", "d/m/y", "D/M/y", "d/m/yy", "d month y", "dth month y", "d mon y",
              "d-mon-y", "iso", "d.m.y"),
        legal=("Ltd", "Limited", "plc", "LLP", "Ltd.", "& Co", "PLC", "(UK) Ltd"),
        cities=("Leeds", "Bristol", "Norwich", "Cardiff", "Glasgow", "York", "Exeter", "Derby"),
        streets=("{} High Street", "{} Station Road", "Unit {}, Mill Lane", "{} Church Row",
                 "{} Victoria Road", "The Old Barn, {} Park Way"),
        postcode="AA9 9AA", address="{city} {postcode}", phone="+44 9999 999999",
        tax_id="GB 999 9999 99", iban="GB99 AAAA 9999 9999 9999 99"),
    _locale(
        "de-DE", country="Deutschland", currencies=("EUR", "EUR", "EUR", "EUR", "USD", "GBP"),
        number=("1.234,50", "1.234,50", "1234,50"), date=_EU_DATES + ("d. month y", "d. month y"),
        legal=("GmbH", "AG", "KG", "GmbH & Co. KG", "e.K.", "UG (haftungsbeschränkt)", "OHG",
               "GbR", "mbH", "SE"),
        cities=("Berlin", "Köln", "München", "Erfurt", "Kassel", "Ulm", "Bremen", "Graz", "Linz"),
        streets=("Hauptstraße {}", "Bahnhofstr. {}", "Am Markt {}", "Gartenweg {}",
                 "Industriestraße {}", "Lindenallee {}", "Postfach {}"),
        postcode="99999", address="{postcode} {city}", phone="+49 999 9999999",
        tax_id="DE999999999", iban="DE99 9999 9999 9999 9999 99"),
    _locale(
        "de-CH", country="Schweiz", currencies=("CHF", "CHF", "CHF", "EUR"),
        number=("1234.50", "1 234.50", "1,234.50"), date=_EU_DATES + ("d. month y",),
        legal=("AG", "GmbH", "SA", "Sàrl", "& Söhne AG", "Genossenschaft"),
        cities=("Zürich", "Bern", "Luzern", "Chur", "Basel", "Winterthur"),
        streets=("Dorfstrasse {}", "Seestrasse {}", "Bahnhofplatz {}", "Im Winkel {}"),
        postcode="9999", address="CH-{postcode} {city}", phone="+41 99 999 99 99",
        tax_id="CHE-999.999.999 MWST", iban="CH99 9999 9999 9999 9999 9"),
    _locale(
        "fr-FR", country="France", currencies=("EUR", "EUR", "EUR", "EUR", "CHF", "USD"),
        number=("1 234,50", "1 234,50", "1234,50", "1.234,50"),
        date=("d/m/y", "d/m/y", "d/m/yy", "d month y", "d month y", "d-m-y", "iso", "d mon y"),
        legal=("SARL", "SAS", "SA", "EURL", "SASU", "& Fils", "SCI", "S.A.R.L."),
        cities=("Lyon", "Nantes", "Lille", "Rennes", "Dijon", "Toulouse", "Metz", "Pau"),
        streets=("{} rue de la Gare", "{}, avenue Jean Jaurès", "{} bis place du Marché",
                 "{} boulevard Voltaire", "ZI Nord, {} rue des Lilas", "{} chemin Vert"),
        postcode="99999", address="{postcode} {city}", phone="09 99 99 99 99",
        tax_id="FR99999999999", iban="FR99 9999 9999 9999 9999 9999 999"),
    _locale(
        "es-ES", country="España", currencies=("EUR", "EUR", "EUR", "EUR", "USD", "MXN"),
        number=("1.234,50", "1.234,50", "1234,50"),
        date=("d/m/y", "d/m/y", "d-m-y", "d de month de y", "d de month de y", "d/m/yy", "iso",
              "d mon y"),
        legal=("S.L.", "S.A.", "SL", "SLU", "S.L.U.", "e Hijos S.L.", "S. Coop.", "SA"),
        cities=("Madrid", "Sevilla", "Bilbao", "Murcia", "Gijón", "Cádiz", "Toledo", "Vigo"),
        streets=("Calle Mayor {}", "C/ del Sol, {}", "Avda. de la Paz {}", "Plaza Nueva {}",
                 "Polígono Sur, nave {}", "Paseo del Prado, {}"),
        postcode="99999", address="{postcode} {city}", phone="+34 999 999 999",
        tax_id="B99999999", iban="ES99 9999 9999 9999 9999 9999"),
    _locale(
        "it-IT", country="Italia", currencies=("EUR", "EUR", "EUR", "EUR", "CHF", "USD"),
        number=("1.234,50", "1.234,50", "1234,50"),
        date=("d/m/y", "d/m/y", "d-m-y", "d month y", "d month y", "d/m/yy", "d.m.y", "iso"),
        legal=("S.r.l.", "S.p.A.", "srl", "S.n.c.", "s.a.s.", "SRL", "& C. snc", "Soc. Coop."),
        cities=("Milano", "Torino", "Bari", "Parma", "Siena", "Verona", "Lecce", "Udine"),
        streets=("Via Roma {}", "Via Garibaldi, {}", "Corso Italia {}", "Piazza Dante {}",
                 "Viale Europa {}", "Strada Provinciale {}"),
        postcode="99999", address="{postcode} {city}", phone="+39 99 9999999",
        tax_id="99999999999", iban="IT99 A999 9999 9999 9999 9999 999"),
    _locale(
        "nl-NL", country="Nederland", currencies=("EUR", "EUR", "EUR", "EUR", "USD", "GBP"),
        number=("1.234,50", "1.234,50", "1234,50"),
        date=("d-m-y", "d-m-y", "D-M-y", "d-m-yy", "d month y", "d month y", "d/m/y", "iso"),
        legal=("B.V.", "BV", "N.V.", "VOF", "V.O.F.", "Holding B.V.", "& Zn."),
        cities=("Utrecht", "Breda", "Zwolle", "Leiden", "Arnhem", "Delft", "Gent", "Leuven"),
        streets=("Dorpsstraat {}", "Kerkweg {}", "Stationsplein {}", "Molenlaan {}",
                 "Industrieweg {}-B", "Prinsengracht {}"),
        postcode="9999 AA", address="{postcode} {city}", phone="+31 99 999 9999",
        tax_id="NL999999999B99", iban="NL99 AAAA 9999 9999 99"),
    _locale(
        "pt-PT", country="Portugal", currencies=("EUR", "EUR", "EUR", "BRL", "USD"),
        number=("1.234,50", "1 234,50", "1234,50"),
        date=("d/m/y", "d/m/y", "d-m-y", "d de month de y", "iso", "d.m.y"),
        legal=("Lda.", "S.A.", "Lda", "Unipessoal Lda.", "& Filhos, Lda.", "SA"),
        cities=("Lisboa", "Porto", "Braga", "Faro", "Évora", "Aveiro"),
        streets=("Rua Augusta, {}", "Av. da Liberdade {}", "Largo do Rossio {}",
                 "Travessa Nova, n.º {}", "Rua das Flores {}"),
        postcode="9999-999", address="{postcode} {city}", phone="+351 999 999 999",
        tax_id="999999999", iban="PT99 9999 9999 9999 9999 9999 9"),
    _locale(
        "pl-PL", country="Polska", currencies=("PLN", "PLN", "PLN", "EUR", "CZK"),
        number=("1 234,50", "1 234,50", "1234,50", "1.234,50"),
        date=("d.m.y", "d.m.y", "d-m-y", "iso", "iso", "d month y", "d month y r."),
        legal=("Sp. z o.o.", "S.A.", "sp. j.", "Sp. k.", "sp. z o.o. sp. k.", "s.c."),
        cities=("Kraków", "Gdańsk", "Łódź", "Poznań", "Lublin", "Toruń"),
        streets=("ul. Długa {}", "ul. Polna {}/4", "al. Niepodległości {}", "os. Słoneczne {}",
                 "pl. Wolności {}"),
        postcode="99-999", address="{postcode} {city}", phone="+48 999 999 999",
        tax_id="999-999-99-99", iban="PL99 9999 9999 9999 9999 9999 9999"),
    _locale(
        "sv-SE", country="Sverige", currencies=("SEK", "SEK", "SEK", "EUR", "NOK"),
        number=("1 234,50", "1 234,50", "1234,50", "1234.50"),
        date=("iso", "iso", "iso", "d month y", "d/m y", "yymmdd", "d mon y"),
        legal=("AB", "HB", "KB", "Aktiebolag", "AB (publ)", "Ek. för."),
        cities=("Malmö", "Uppsala", "Göteborg", "Umeå", "Lund", "Örebro"),
        streets=("Storgatan {}", "Drottninggatan {}", "Box {}", "Hamnvägen {}", "Skolgatan {} B"),
        postcode="999 99", address="{postcode} {city}", phone="+46 99 999 99 99",
        tax_id="999999-9999", iban="SE99 9999 9999 9999 9999 9999"),
    _locale(
        "da-DK", country="Danmark", currencies=("DKK", "DKK", "DKK", "EUR", "NOK"),
        number=("1.234,50", "1.234,50", "1234,50"),
        date=("d.m.y", "d-m-y", "d/m/y", "d. month y", "d. month y", "d.m.yy", "iso"),
        legal=("ApS", "A/S", "I/S", "K/S", "IVS", "P/S"),
        cities=("Aarhus", "Odense", "Aalborg", "Esbjerg", "Roskilde", "Vejle"),
        streets=("Vestergade {}", "Havnevej {}", "Nørregade {}, 2. tv", "Industrivej {}",
                 "Postboks {}"),
        postcode="9999", address="{postcode} {city}", phone="+45 99 99 99 99",
        tax_id="99999999", iban="DK99 9999 9999 9999 99"),
)

# Locale weights: English and German documents are the commonest here.
WEIGHTS = (5, 4, 4, 1, 3, 3, 3, 3, 1, 2, 1, 1)
