use serde_json::json;

use super::*;
use crate::values::{DateOrder, DecimalMark};
use crate::{Document, Format, Metadata, Page, Word};

fn document(texts: &[&str]) -> Document {
    let pages = texts.iter().enumerate().map(|(index, text)| {
        let mut page = Page::without_size(index + 1, None);
        text.split("\n\n").for_each(|text| page.push_paragraph(text));
        page
    });
    Document {
        format: Format::Text,
        pages: pages.collect(),
        metadata: Metadata::default(),
        warnings: Vec::new(),
    }
}

/// A page whose words stand where `text` has them: a column is 6 points wide, a line 12 high.
fn placed(text: &str) -> Document {
    let mut document = document(&[text]);
    let page = &mut document.pages[0];
    (page.width, page.height) = (Some(600.0), Some(800.0));
    let mut words = Vec::new();
    for (row, line) in text.lines().enumerate() {
        let mut column = 0;
        for part in line.split(' ') {
            let len = part.chars().count();
            if len > 0 {
                let (x0, y0) = (column as f32 * 6.0, row as f32 * 12.0);
                let bbox = Rect { x0, y0, x1: x0 + len as f32 * 6.0, y1: y0 + 10.0 };
                words.push(Word { text: part.to_owned(), bbox: Some(bbox), confidence: None });
            }
            column += len + 1;
        }
    }
    page.words = words;
    document
}

fn fields() -> Fields {
    Fields::from_names(&["a", "b:number", "c:date"]).unwrap()
}

/// Whether a value is found; if so, the words.
fn find(document: &Document, said: impl Into<Value>) -> Option<String> {
    let said = said.into();
    let grounded = fields().ground(document, &json!({"a": said.clone()}));
    assert_eq!(grounded.fields["a"].is_null(), grounded.found.is_empty());
    assert_eq!(grounded.ungrounded.is_empty(), !grounded.found.is_empty());
    grounded.found.first().map(|found| found.text.clone())
}

fn check(document: &str, said: impl Into<Value>, expected: Option<&str>) {
    let said = said.into();
    let found = find(&self::document(&[document]), said.clone());
    assert_eq!(found.as_deref(), expected, "{said} in {document}");
}

#[test]
fn texts_are_found_as_they_stand() {
    let text = "Invoice No: RE-2026/0417, for “Brightwater\nStudio” Ltd. (VAT DE 136 695 976)";
    check(text, "RE-2026/0417", Some("RE-2026/0417,"));
    check(text, "re-2026/0417", Some("RE-2026/0417,"));
    check(text, "Brightwater  Studio", Some("“Brightwater Studio”"));
    check(text, "\"Brightwater Studio\" Ltd", Some("“Brightwater Studio” Ltd."));
    check(text, "DE136695976", Some("DE 136 695 976)"));
    check("Dienst-\nleistung", "Dienstleistung", Some("Dienst- leistung"));
    check("Dienst-\nleistung", "dienst- leistung", Some("Dienst- leistung"));
    check("of\u{fb01}ce", "office", Some("of\u{fb01}ce"));
}

#[test]
fn parts_of_words_are_not_found() {
    let text = "RE-2026/0417 Brightwater 1.443,35 info@example.org 12:30 AB12 34CD";
    for said in [
        "0417",
        "2026",
        "RE",
        "bright",
        "water",
        "443",
        "example",
        "30",
        "12",
        "Brightwater Ltd",
        ".",
        "-",
    ] {
        check(text, said, None);
    }
    // Groups of an identifier begin and end with words.
    check(text, "B1234CD5", None);
    check("1234 5678", "12345678", None);
    check("caf\u{e9}", "cafe", None);
}

#[test]
fn amounts_are_found_by_value() {
    let text = "Net 1.212,90 EUR VAT 19 % 230,45 Total: 1.443,35 EUR, paid -20,00";
    check(text, 1443.35, Some("1.443,35"));
    check(text, "1443.35", Some("1.443,35"));
    check(text, "1443.35 EUR", Some("1.443,35 EUR,"));
    check(text, "1443.35 USD", None);
    check(text, 19, Some("19"));
    check(text, 0.19, Some("19 %"));
    check(text, -20, Some("-20,00"));
    check(text, 20, None);
    check(text, -1443.35, None);
    check(text, 1.44335, None);
    check(text, 1443, None);
    // Digits alone may be a number of something else.
    check("Sum 10.115,00", "10115", None);
    check("Sum 10.115", "10115", Some("10.115"));
    check("Sum 417", "0417", None);
    check("Total:12.50 and (7.25)", 12.5, Some("Total:12.50"));
    check("Total:12.50 and (7.25)", -7.25, Some("(7.25)"));
}

#[test]
fn marks_mean_what_they_mean_elsewhere_in_the_document() {
    check("1.234 and 5,60", 1234, Some("1.234"));
    check("1.234 and 5,60", 1.234, None);
    check("1.234 and 5.60", 1.234, Some("1.234"));
    let grounded = fields().ground(&document(&["Sum 1.234"]), &json!({"b": 1234}));
    assert!(grounded.found[0].ambiguous.is_some());
    assert_eq!(grounded.written, Written::default());
    let grounded = fields().ground(&document(&["1.234,50 of 17/03/2026"]), &json!({"b": 1234.5}));
    let written = Written { mark: Some(DecimalMark::Comma), order: Some(DateOrder::DayFirst) };
    assert_eq!(grounded.written, written);
    assert_eq!(grounded.found[0].ambiguous, None);
}

#[test]
fn columns_are_not_one_amount() {
    let page = placed("Paper   2   100,00\nFolder  1 250,00 EUR");
    assert_eq!(find(&page, 2100), None);
    assert_eq!(find(&page, 2).as_deref(), Some("2"));
    assert_eq!(find(&page, 100).as_deref(), Some("100,00"));
    assert_eq!(find(&page, 1250).as_deref(), Some("1 250,00"));
    // A group of an amount is none.
    assert_eq!(find(&page, 250), None);
}

#[test]
fn dates_are_found_by_value() {
    let text = "Date: 17. M\u{e4}rz 2026, due 31.03.2026";
    check(text, "2026-03-17", Some("17. M\u{e4}rz 2026,"));
    check(text, "2026-03-31", Some("31.03.2026"));
    check(text, "2026-03-18", None);
    check("02/03/2026 and 17/03/2026", "2026-03-02", Some("02/03/2026"));
    check("02/03/2026 and 17/03/2026", "2026-02-03", None);
    let open = fields().ground(&document(&["02/03/2026"]), &json!({"c": "2026-02-03"}));
    assert_eq!(open.found[0].ambiguous.as_deref(), Some("2026-03-02 or 2026-02-03"));
}

#[test]
fn codes_of_currencies_are_found_in_their_signs() {
    check("Total \u{20ac}12.50", "EUR", Some("\u{20ac}12.50"));
    check("Total 12.50 EUR", "EUR", Some("EUR"));
    check("Total 12.50 \u{20ac}", "USD", None);
    let dollars = fields().ground(&document(&["$12.50"]), &json!({"a": "USD"}));
    assert!(dollars.found[0].ambiguous.as_deref().unwrap().contains("another currency"));
}

#[test]
fn the_place_nearest_to_the_name_is_told() {
    let page = placed("Subtotal   100,00\nPaid       100,00\nTotal      100,00");
    let said = json!({"total": 100, "paid": 100, "other": 100});
    let grounded = fields().ground(&page, &said);
    let at = |path: &str| grounded.found.iter().find(|found| found.path == path).unwrap();
    assert_eq!((at("total").word_start, at("paid").word_start, at("other").word_start), (5, 3, 1));
    assert_eq!(at("total").occurrences, 3);
    assert_eq!(at("total").boxes, [Rect { x0: 66.0, y0: 24.0, x1: 102.0, y1: 34.0 }]);
    assert_eq!((at("total").page, at("total").word_end), (1, 6));
}

#[test]
fn a_text_over_two_lines_has_two_boxes() {
    let page = placed("of Brightwater\nStudio Ltd");
    let grounded = fields().ground(&page, &json!({"a": "Brightwater Studio"}));
    assert_eq!(grounded.found[0].boxes.len(), 2);
}

#[test]
fn an_item_said_twice_has_to_stand_there_twice() {
    let said = json!({"items": [{"a": "Pen", "b": 1}, {"a": "Pen", "b": 1}, {"a": "Cap", "b": 7}]});
    let grounded = fields().ground(&document(&["Pen 1 Cap 7"]), &said);
    let expected = json!([{"a": "Pen", "b": 1}, {"a": null, "b": null}, {"a": "Cap", "b": 7}]);
    assert_eq!(grounded.fields["items"], expected);
    let refused: Vec<&str> = grounded.ungrounded.iter().map(|u| u.path.as_str()).collect();
    assert_eq!(refused, ["items[1].a", "items[1].b"]);
    let grounded = fields().ground(&document(&["Pen 1 Pen 1 Cap 7"]), &said);
    assert!(grounded.ungrounded.is_empty());
}

#[test]
fn choices_are_told_apart_from_what_was_found() {
    let schema = json!({"type": "object", "properties": {
        "kind": {"enum": ["invoice", "receipt"]},
        "paid": {"type": "boolean"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
        "name": {"type": "string"},
    }, "$defs": {"item": {"type": "object", "properties": {"unit": {"type": "string", "enum": ["h", "pc"]}}}}});
    let fields = Fields::from_schema(schema).unwrap();
    let said =
        json!({"kind": "receipt", "paid": true, "items": [{"unit": "pc"}], "name": "receipt"});
    let grounded = fields.ground(&document(&["Invoice"]), &said);
    assert_eq!(grounded.chosen, ["kind", "paid", "items[0].unit"]);
    assert_eq!(grounded.fields["kind"], "receipt");
    assert_eq!(grounded.fields["name"], Value::Null);
    let grounded = fields.ground(&document(&["Invoice"]), &json!({"kind": "invoice"}));
    assert_eq!((grounded.found.len(), grounded.chosen.len()), (1, 0));
}

#[test]
fn every_leaf_of_a_schema_may_be_null() {
    let schema = json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "string", "maxLength": 9},
        "b": {"type": "array", "minItems": 1, "items": {"type": "object", "properties": {"c": {"type": "number"}}}},
        "d": {"enum": ["x"]},
        "e": {"anyOf": [{"type": "string"}, {"type": "number"}]},
        "f": {"type": ["integer", "null"]},
        "g": {"$ref": "#/$defs/g"},
    }, "$defs": {"g": {"type": "boolean"}}});
    let relaxed = Fields::from_schema(schema).unwrap();
    let expected = json!({"type": "object", "required": ["a", "b", "d", "e", "f"], "properties": {
        "a": {"type": ["string", "null"], "maxLength": 9},
        "b": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": ["number", "null"]}}, "required": ["c"]}},
        "d": {"enum": ["x", null]},
        "e": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]},
        "f": {"type": ["integer", "null"]},
        "g": {"$ref": "#/$defs/g"},
    }, "$defs": {"g": {"type": ["boolean", "null"]}}});
    assert_eq!(relaxed.schema(), &expected);
    assert_eq!(Fields::from_schema(json!({"type": "string"})), Err(FieldsError::NoObject));
    assert!(Fields::from_names(&["a:money"]).is_err() && Fields::from_names(&["a", "a"]).is_err());
    assert!(Fields::from_names(&[""]).is_err() && Fields::from_names(&[]).is_err());
}

#[test]
fn a_long_document_is_read_by_pages_and_never_cut() {
    let document = document(&["one two three", "four", "five six"]);
    let write = |text: &str| text.to_owned();
    let parts =
        |room| Fields::parts(&document, room, &write, &mut |text| text.split_whitespace().count());
    let ranges = |room| parts(room).unwrap().into_iter().map(|part| part.pages).collect::<Vec<_>>();
    assert_eq!(ranges(8), std::slice::from_ref(&(0..3)));
    // A rule between two pages counts as well.
    assert_eq!(ranges(5), [0..2, 2..3]);
    assert_eq!(ranges(3), [0..1, 1..2, 2..3]);
    assert_eq!(parts(2), Err(TooLong { page: 1, tokens: 3, room: 2 }));
    let pages: String = parts(3).unwrap().iter().map(|part| part.message.as_str()).collect();
    assert_eq!(pages, "one two three\nfour\nfive six\n");
}

#[test]
fn parts_are_put_together() {
    let document = document(&["Invoice 7 Pen 1", "Cap 2 Invoice 8"]);
    let said = vec![
        (0..1, json!({"number": "7", "total": null, "items": [{"a": "Pen"}, {"a": "Cap"}]})),
        (1..2, json!({"number": "8", "total": 2, "items": [{"a": "Cap"}]})),
    ];
    let grounded = fields().ground_parts(&document, said);
    let expected = json!({"number": "7", "total": 2, "items": [{"a": "Pen"}, {"a": "Cap"}]});
    assert_eq!(grounded.fields, expected);
    // The first part does not hold what it said.
    assert_eq!(grounded.ungrounded, [Ungrounded { path: "items[1].a".into(), said: "Cap".into() }]);
    assert_eq!(grounded.conflicts, [Conflict { path: "number".into(), also: "8".into() }]);
    let pages: Vec<usize> = grounded.found.iter().map(|found| found.page).collect();
    assert_eq!(pages, [1, 2, 1, 2]);
}

#[test]
fn nothing_is_nothing() {
    let said = json!({"a": "", "b": null, "c": "  ", "d": [], "e": {}});
    let grounded = fields().ground(&document(&["x"]), &said);
    assert_eq!(grounded.fields, json!({"a": null, "b": null, "c": null, "d": [], "e": {}}));
    assert!(grounded.ungrounded.is_empty());
    let empty = fields().ground(&document(&[]), &json!({"a": "x"}));
    assert_eq!(empty.fields["a"], Value::Null);
}

/// Texts that the document does not hold in any form are never passed on.
#[test]
fn words_of_no_document_are_never_found() {
    let document = placed("Invoice  RE-7\nTotal    12,50 EUR\nDate     17.03.2026");
    let said = json!({
        "a": "Invoice RE-8", "b": 12.51, "c": "2026-03-16", "d": "Total Date", "e": ["EUR", "GBP"],
        "f": {"g": "unknown", "h": 1e300, "i": -12.5, "j": 12, "k": "12.5 GBP"},
    });
    let grounded = fields().ground(&document, &said);
    let expected = json!({
        "a": null, "b": null, "c": null, "d": null, "e": ["EUR", null],
        "f": {"g": null, "h": null, "i": null, "j": null, "k": null},
    });
    assert_eq!(grounded.fields, expected);
    assert_eq!(grounded.ungrounded.len(), 10);
}
