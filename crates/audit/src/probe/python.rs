//! What a Python file imports, and what it defines: enough of the language to read statements, whatever strings and comments
//! hold. A parser of the whole language would refuse files of a later Python; statements that import have not changed since 2.7.

mod lexer;

use lexer::{Line, lines};

/// When an import runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum When {
    /// Whenever the module is imported.
    Always,
    /// In a `try` whose `except` takes a missing module.
    Guarded,
    /// Where this holds; `not (…)` after an `else`.
    If(String),
    /// When a function is called.
    Lazy,
}

/// An import statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImportStatement {
    /// From 1.
    pub(crate) line: usize,
    /// Dots before the module: 0 is absolute.
    pub(crate) level: usize,
    /// `torch.nn`; empty in `from . import x`.
    pub(crate) module: String,
    /// What is taken from it; empty in `import x`. A star is `*`.
    pub(crate) names: Vec<String>,
    pub(crate) when: When,
}

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct Module {
    pub(crate) imports: Vec<ImportStatement>,
    /// Names that its top level binds.
    pub(crate) names: Vec<String>,
}

/// Reads a file.
pub(crate) fn read(source: &str) -> Module {
    let lines = lines(source);
    let mut module = Module::default();
    let mut blocks: Vec<Block> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let mut closed = None;
        while let Some(block) = blocks.pop_if(|block| block.indent >= line.indent) {
            closed = Some(block);
        }
        let (header, suite) = split_header(&line.text);
        if let Some(header) = header {
            let when = block_kind(header, closed.as_ref(), &lines, at);
            blocks.push(Block { indent: line.indent, header: header.to_owned(), when });
        }
        for statement in suite.split(';').map(str::trim).filter(|s| !s.is_empty()) {
            let when = when(&blocks);
            for (level, imported, names) in import(statement) {
                let statement = ImportStatement {
                    line: line.number,
                    level,
                    module: imported,
                    names,
                    when: when.clone(),
                };
                module.imports.push(statement);
            }
        }
        if when(&blocks[..blocks.len() - usize::from(header.is_some())]) != When::Lazy {
            module.names.extend(bound(header.unwrap_or(&line.text)));
        }
    }
    module
}

struct Block {
    indent: usize,
    /// Up to the colon.
    header: String,
    when: Option<When>,
}

/// The outermost reason why something does not always run; a function is stronger than any.
fn when(blocks: &[Block]) -> When {
    let reasons = || blocks.iter().filter_map(|block| block.when.as_ref());
    if reasons().any(|when| *when == When::Lazy) {
        return When::Lazy;
    }
    let guarded = reasons().any(|when| *when == When::Guarded);
    if guarded { When::Guarded } else { reasons().next().cloned().unwrap_or(When::Always) }
}

const HEADERS: [&str; 14] = [
    "if", "elif", "else", "try", "except", "finally", "for", "while", "with", "def", "class",
    "async", "match", "case",
];

/// The part of a compound statement up to its colon, and what stands behind it on the same line.
fn split_header(text: &str) -> (Option<&str>, &str) {
    let word: &str = text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
    if !HEADERS.contains(&word) {
        return (None, text);
    }
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            // `:=` is no end, and a lambda's colon has its parameters before it.
            ':' if depth == 0 && !text[at + 1..].starts_with('=') && !in_lambda(&text[..at]) => {
                return (Some(&text[..at]), text[at + 1..].trim());
            }
            _ => {}
        }
    }
    (None, text)
}

fn in_lambda(before: &str) -> bool {
    before.matches("lambda").count() > before.matches(':').count()
}

fn block_kind(header: &str, closed: Option<&Block>, lines: &[Line], at: usize) -> Option<When> {
    let word = header.split(|c: char| !c.is_alphanumeric()).next().unwrap_or("");
    let condition = |text: &str| Some(When::If(text.trim().to_owned()));
    match word {
        "if" | "elif" | "while" => condition(&header[word.len()..]),
        "else" => match closed.map(|block| (&block.header, &block.when)) {
            Some((before, Some(When::If(other)))) if before.starts_with(['i', 'e']) => {
                condition(&format!("not ({other})"))
            }
            _ => None,
        },
        "case" | "except" => condition(header),
        "try" => catches(lines, at).then_some(When::Guarded),
        "def" => Some(When::Lazy),
        "async" if header.contains("def ") => Some(When::Lazy),
        _ => None,
    }
}

/// Whether the `try` of line `at` has an `except` that takes a missing module and does not raise in turn.
fn catches(lines: &[Line], at: usize) -> bool {
    const CAUGHT: [&str; 4] = ["ImportError", "ModuleNotFoundError", "Exception", "BaseException"];
    let indent = lines[at].indent;
    let mut rest = lines[at + 1..].iter().peekable();
    while let Some(line) = rest.next() {
        let closing = ["except", "finally", "else"].iter().any(|word| line.text.starts_with(word));
        if line.indent < indent || line.indent == indent && !closing {
            return false;
        }
        if line.indent == indent
            && let Some(caught) = line.text.strip_prefix("except")
        {
            let (caught, suite) = caught.split_once(':').unwrap_or((caught, ""));
            let word = |c: char| !c.is_alphanumeric() && c != '_';
            let takes =
                caught.trim().is_empty() || caught.split(word).any(|name| CAUGHT.contains(&name));
            let next = if suite.trim().is_empty() {
                rest.peek().map(|l| l.text.as_str())
            } else {
                Some(suite.trim())
            };
            if takes && !next.is_some_and(|next| next.starts_with("raise")) {
                return true;
            }
        }
    }
    false
}

/// The modules of an import statement: dots, module, names.
fn import(statement: &str) -> Vec<(usize, String, Vec<String>)> {
    let named = |item: &str| {
        let name = item.split_whitespace().next().unwrap_or("");
        (!name.is_empty()).then(|| name.to_owned())
    };
    if let Some(rest) = statement.strip_prefix("import ") {
        return rest.split(',').filter_map(named).map(|module| (0, module, Vec::new())).collect();
    }
    let Some(rest) = statement.strip_prefix("from").filter(|rest| rest.starts_with([' ', '.']))
    else {
        return Vec::new();
    };
    let Some(at) = import_keyword(rest) else { return Vec::new() };
    let module: String = rest[..at].split_whitespace().collect();
    let level = module.chars().take_while(|c| *c == '.').count();
    let names = rest[at + "import".len()..].replace(['(', ')'], " ");
    let names = names.split(',').filter_map(named).collect();
    vec![(level, module[level..].to_owned(), names)]
}

/// Where `import` stands behind a module's name, which may begin with that word. `from .import x` needs no space.
fn import_keyword(rest: &str) -> Option<usize> {
    rest.match_indices("import").map(|(at, _)| at).find(|at| {
        let after = &rest[at + "import".len()..];
        rest[..*at].ends_with([' ', '\t', '.']) && after.starts_with([' ', '\t', '(', '*'])
    })
}

/// Names that a statement binds.
fn bound(statement: &str) -> Vec<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let first = |text: &str| {
        let name: String = text.trim_start().chars().take_while(|c| is_name(*c)).collect();
        (!name.is_empty()).then_some(name)
    };
    for word in ["async def ", "def ", "class "] {
        if let Some(rest) = statement.strip_prefix(word) {
            return first(rest).into_iter().collect();
        }
    }
    let imported = match statement.strip_prefix("import ") {
        Some(names) => Some(names),
        None => statement
            .strip_prefix("from")
            .and_then(|rest| Some(&rest[import_keyword(rest)? + "import".len()..])),
    };
    if let Some(names) = imported {
        let names = names.replace(['(', ')'], " ");
        let name = |item: &str| match item.split_once(" as ") {
            Some((_, alias)) => first(alias),
            None => {
                item.split_whitespace().next().map(|n| n.split('.').next().unwrap_or(n).to_owned())
            }
        };
        return names.split(',').filter_map(name).collect();
    }
    // `a = b = c` binds two.
    let (mut names, mut rest) = (Vec::new(), statement);
    while let Some((target, value)) = rest.split_once('=').filter(|(_, v)| !v.starts_with('=')) {
        let target = target.split_once(':').map_or(target, |(name, _)| name);
        if !target.chars().all(|c| is_name(c) || " ,".contains(c)) {
            break;
        }
        names.extend(target.split(',').filter_map(first));
        rest = value;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &[(usize, &str, &[&str], When)]) {
        let found = read(source).imports;
        let found: Vec<_> = found
            .iter()
            .map(|i| {
                let module = format!("{}{}", ".".repeat(i.level), i.module);
                (i.line, module, i.names.clone(), i.when.clone())
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(line, module, names, when)| {
                let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
                (*line, (*module).to_owned(), names, when.clone())
            })
            .collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn the_forms_of_import() {
        check(
            "import a.b as c, d\n",
            &[(1, "a.b", &[], When::Always), (1, "d", &[], When::Always)],
        );
        check(
            "from .x import (  # why\n    a,\n    b as c,\n)\nfrom . import y; from..z import *\n",
            &[
                (1, ".x", &["a", "b"], When::Always),
                (5, ".", &["y"], When::Always),
                (5, "..z", &["*"], When::Always),
            ],
        );
        check(
            "from a import b, \\\n  c\nimportant = 1\nfrom_ = 2\n",
            &[(1, "a", &["b", "c"], When::Always)],
        );
    }

    #[test]
    fn what_is_in_strings_is_no_import() {
        check(
            "'''\nimport a\n'''\nx = \"import b # \\\" \" # import c\nimport d\n",
            &[(5, "d", &[], When::Always)],
        );
        check(
            "x = f\"{y[\"}\"]} {{\"\nimport d\nz = rb'\\''\nimport e\n",
            &[(2, "d", &[], When::Always), (4, "e", &[], When::Always)],
        );
    }

    #[test]
    fn when_it_runs() {
        check(
            "if not have():\n    import a\nelse:\n    import b\n",
            &[
                (2, "a", &[], When::If("not have()".into())),
                (4, "b", &[], When::If("not (not have())".into())),
            ],
        );
        check(
            "try:\n    import a\nexcept ImportError:\n    a = None\n",
            &[(2, "a", &[], When::Guarded)],
        );
        check(
            "try:\n    import a\nexcept ImportError:\n    raise X\n",
            &[(2, "a", &[], When::Always)],
        );
        check("try:\n    import a\nfinally:\n    f()\n", &[(2, "a", &[], When::Always)]);
        check(
            "class C:\n    def f(self):\n        import a\n    import b\n",
            &[(3, "a", &[], When::Lazy), (4, "b", &[], When::Always)],
        );
        check("if x: import a\n", &[(1, "a", &[], When::If("x".into()))]);
    }

    #[test]
    fn names_match_exactly() {
        let module = read(
            "def int8_mm_configs():\n    mm_configs = 1\nfrom a import b as c\nd: int = 4\ne, f = g = h == i\n",
        );
        assert_eq!(module.names, ["int8_mm_configs", "c", "d", "e", "f", "g"]);
    }
}
