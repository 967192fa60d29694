//! Schemas: those of `fixtures/schemas`, and made-up ones, a seed each.

use serde_json::{Map, Value, json};

use super::{Rng, repository};

/// A schema and its name.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub schema: Value,
}

/// Made-up schemas in the set.
const GENERATED: u64 = 300;

/// All schemas: the files, by name, then the made-up ones.
pub fn cases() -> Vec<Case> {
    let folder = repository("fixtures/schemas");
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|e| e == "json"));
    names.sort();
    let mut cases: Vec<Case> = names
        .iter()
        .map(|path| Case {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            schema: serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(),
        })
        .collect();
    cases.extend(
        (0..GENERATED).map(|seed| Case { name: format!("seed {seed}"), schema: made(seed) }),
    );
    cases
}

/// The schema of a seed.
pub fn made(seed: u64) -> Value {
    let mut maker =
        Maker { rng: Rng(seed), definitions: Map::new(), recursive: seed.is_multiple_of(5) };
    let mut schema = match seed % 4 {
        0 => maker.any(0),
        _ => maker.object(0),
    };
    if maker.recursive {
        // What a node needs is not a node again.
        maker.recursive = false;
        let child = json!({"$ref": "#/$defs/node"});
        let node = json!({
            "type": "object",
            "properties": {"value": maker.any(2), "next": child, "list": {"type": "array", "items": child}},
            "required": ["value"],
        });
        maker.definitions.insert("node".into(), node);
    }
    if !maker.definitions.is_empty()
        && let Value::Object(schema) = &mut schema
    {
        schema.insert("$defs".into(), Value::Object(maker.definitions));
    }
    schema
}

struct Maker {
    rng: Rng,
    definitions: Map<String, Value>,
    recursive: bool,
}

const NAMES: [&str; 14] = [
    "id",
    "name",
    "total",
    "date",
    "items",
    "note",
    "é",
    "a b",
    "q\"uote",
    "back\\slash",
    "kind",
    "x",
    "customer_number",
    "currency",
];

const PATTERNS: [&str; 7] = [
    "^[A-Z]{3}$",
    "^[0-9]{4}-[0-9]{2}$",
    "^(foo|barbaz)+$",
    "[0-9]",
    "^[a-z]+@[a-z]+\\.(com|ch)$",
    "^.{3,5}$",
    "^\\w+( \\w+)*$",
];

const FORMATS: [&str; 10] =
    ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

impl Maker {
    fn any(&mut self, depth: usize) -> Value {
        let containers = if depth < 4 { 6 } else { 0 };
        match self.rng.below(10 + containers) {
            0 => json!({"type": "null"}),
            1 => json!({"type": "boolean"}),
            2 | 3 => self.number(),
            4..=6 => self.text(),
            7 => self.constants(),
            8 => self.nullable(),
            9 => {
                if self.recursive {
                    json!({"$ref": "#/$defs/node"})
                } else {
                    json!({})
                }
            }
            10 => self.array(depth),
            11 => self.tuple(depth),
            12 => self.any_of(depth),
            13 => self.all_of(depth),
            14 => self.one_of(depth),
            _ => self.object(depth),
        }
    }

    fn number(&mut self) -> Value {
        let integer = self.rng.one_in(2);
        let mut schema = json!({"type": if integer { "integer" } else { "number" }});
        let low = self.rng.below(4000) as f64 - 2000.0;
        let low = if integer || self.rng.one_in(2) { low } else { low + 0.25 };
        if self.rng.one_in(3) {
            let key = if self.rng.one_in(3) { "exclusiveMinimum" } else { "minimum" };
            schema[key] = json!(low);
        }
        if self.rng.one_in(3) {
            let key = if self.rng.one_in(3) { "exclusiveMaximum" } else { "maximum" };
            schema[key] = json!(low + 2.0 + self.rng.below(5000) as f64);
        }
        if self.rng.one_in(6) && schema.as_object().unwrap().len() == 1 {
            schema["multipleOf"] =
                if integer { json!(1 + self.rng.below(12)) } else { json!(0.25) };
        }
        if integer && self.rng.one_in(8) {
            schema["format"] = json!("int32");
        }
        schema
    }

    fn text(&mut self) -> Value {
        let mut schema = json!({"type": "string"});
        match self.rng.below(8) {
            0 => schema["pattern"] = json!(self.rng.pick(&PATTERNS)),
            1 => schema["format"] = json!(self.rng.pick(&FORMATS)),
            2 => {
                let min = self.rng.below(30);
                schema["minLength"] = json!(min);
                schema["maxLength"] = json!(min + self.rng.below(30));
            }
            3 => schema["maxLength"] = json!(1 + self.rng.below(200)),
            4 => schema["minLength"] = json!(self.rng.below(60)),
            _ => {}
        }
        if self.rng.one_in(6) {
            schema["description"] = json!("a text");
        }
        schema
    }

    fn constants(&mut self) -> Value {
        match self.rng.below(4) {
            0 => json!({"enum": ["a", "ab", "abc", "tab\t", "é", "quote\"", ""]}),
            1 => json!({"enum": [1, 1.5, "1", null, true, {"a": [1]}, [], -20]}),
            2 => json!({"const": self.rng.pick(&NAMES)}),
            _ => json!({"type": "string", "enum": ["incoming", "outgoing", "neutral"]}),
        }
    }

    fn nullable(&mut self) -> Value {
        match self.rng.below(3) {
            0 => json!({"type": ["string", "null"], "maxLength": 20}),
            1 => json!({"type": "integer", "nullable": true, "minimum": 3}),
            _ => {
                json!({"type": ["array", "number", "null"], "items": {"type": "boolean"}, "minimum": 0})
            }
        }
    }

    fn array(&mut self, depth: usize) -> Value {
        let mut schema = json!({"type": "array"});
        if !self.rng.one_in(6) {
            schema["items"] = self.any(depth + 1);
        }
        let min = self.rng.below(4);
        if self.rng.one_in(3) {
            schema["minItems"] = json!(min);
        }
        if self.rng.one_in(3) {
            schema["maxItems"] = json!(min + self.rng.below(6));
        }
        schema
    }

    fn tuple(&mut self, depth: usize) -> Value {
        let prefix: Vec<Value> = (0..1 + self.rng.below(3)).map(|_| self.any(depth + 1)).collect();
        let mut schema = if self.rng.one_in(4) {
            json!({"type": "array", "items": prefix, "additionalItems": false})
        } else {
            json!({"type": "array", "prefixItems": prefix, "items": self.any(depth + 2)})
        };
        if self.rng.one_in(2) {
            schema["minItems"] = json!(1);
        }
        schema
    }

    fn any_of(&mut self, depth: usize) -> Value {
        let options: Vec<Value> = (0..2 + self.rng.below(2)).map(|_| self.any(depth + 1)).collect();
        json!({"anyOf": options})
    }

    fn one_of(&mut self, depth: usize) -> Value {
        let mut option = |kind: &str| {
            let mut object = self.object(depth + 1);
            object["properties"]["kind"] = json!({"const": kind});
            object["required"] = json!(["kind"]);
            object
        };
        json!({"oneOf": [option("first"), option("second"), {"type": "null"}]})
    }

    fn all_of(&mut self, depth: usize) -> Value {
        // Closed by name, a base would have no room for more.
        let mut base = self.object(depth + 1);
        let open =
            ["additionalProperties", "unevaluatedProperties", "maxProperties", "patternProperties"];
        base.as_object_mut().unwrap().retain(|key, _| !open.contains(&key.as_str()));
        let name = format!("base{}", self.definitions.len());
        self.definitions.insert(name.clone(), base);
        let more = json!({"properties": {"more": self.any(depth + 2), "flag": {"type": "boolean"}}, "required": ["flag"]});
        json!({"allOf": [{"$ref": format!("#/$defs/{name}")}, more], "title": "both"})
    }

    fn object(&mut self, depth: usize) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        let count = if self.rng.one_in(12) { 30 } else { self.rng.below(6) };
        for at in 0..count {
            let name = match NAMES.get(at) {
                Some(_) if at < 8 => (*self.rng.pick(&NAMES)).to_owned(),
                _ => format!("field_{at}"),
            };
            if !self.rng.one_in(3) && !required.contains(&name) {
                required.push(name.clone());
            }
            properties.insert(name, self.any(depth + if count > 10 { 4 } else { 1 }));
        }
        if self.rng.one_in(2) {
            required.reverse();
        }
        let mut schema = json!({"type": "object", "properties": properties, "required": required});
        match self.rng.below(10) {
            0 => schema["additionalProperties"] = json!(false),
            1 => schema["additionalProperties"] = self.text(),
            2 => schema["additionalProperties"] = json!(true),
            3 if count == 0 => {
                return json!({"type": "object", "minProperties": 1, "maxProperties": 3});
            }
            4 if count == 0 => {
                return json!({
                    "type": "object",
                    "patternProperties": {"^[a-z]{1,8}$": {"type": "integer"}},
                    "additionalProperties": false,
                });
            }
            5 if count > 0 => schema["unevaluatedProperties"] = json!(false),
            6 if count > 1 && schema["required"] == json!([]) => schema["minProperties"] = json!(1),
            _ => {}
        }
        schema
    }
}
