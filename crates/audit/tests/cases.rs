//! The stacks that a team ran, and what it believed of them: decided from facts that were measured in the wheels.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::fs;
use std::path::PathBuf;

use expect_test::{Expect, expect};
use halfbyte_audit::{
    Assertions, Fix, FixOutcome, Query, Report, Severity, Truth, WhatHappens, audit, fix, gpus,
};

/// Requirements, a card, and `BNB_CUDA_VERSION`.
struct Case<'c> {
    requirements: &'c str,
    gpu: &'c str,
    bnb_cuda_version: Option<&'c str>,
}

fn case<'c>(requirements: &'c str, gpu: &'c str) -> Case<'c> {
    Case { requirements, gpu, bnb_cuda_version: None }
}

impl Case<'_> {
    fn with<T>(&self, file: &str, what: impl FnOnce(&[PathBuf], &Query) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        fs::write(&path, self.requirements).unwrap();
        let environment = self.bnb_cuda_version.iter();
        let query = Query {
            gpu: Some(gpus::find(self.gpu).unwrap()),
            environment: environment.map(|v| ("BNB_CUDA_VERSION".into(), (*v).into())).collect(),
            ..Query::default()
        };
        what(&[path], &query)
    }

    fn report(&self) -> Report {
        self.with("requirements.txt", |targets, query| audit(targets, query).unwrap())
    }

    fn fix(&self) -> Fix {
        self.with("requirements.txt", |targets, query| fix(targets, query).unwrap())
    }
}

/// A verdict in few lines: what torch and bitsandbytes do, and all findings but notes.
fn summary(report: &Report) -> String {
    let mut lines = vec![format!("works: {:?}", report.works)];
    if let Some(torch) = &report.torch {
        let code = torch.device_code.as_ref().unwrap();
        lines.push(format!(
            "torch: CUDA {}, {:?}",
            torch.cuda.as_deref().unwrap_or("none"),
            code.verdict
        ));
    }
    if let Some(bnb) = &report.bitsandbytes {
        let code = bnb.device_code.as_ref().map(|code| code.verdict);
        let loaded = bnb.loaded.as_deref().unwrap_or("nothing");
        lines.push(format!(
            "bitsandbytes: {loaded}, {:?}, {code:?}, imports {:?}",
            bnb.happens, bnb.imports_hold
        ));
    }
    let counted = report.findings.iter().filter(|finding| finding.severity < Severity::Note);
    lines.extend(counted.map(|finding| format!("{:?} {}", finding.severity, finding.id)));
    for finding in &report.findings {
        assert!(!finding.evidence.is_empty() && !finding.fix.is_empty(), "{finding:?}");
    }
    lines.join("\n") + "\n"
}

#[track_caller]
fn check(case: &Case, expected: Expect) {
    expected.assert_eq(&summary(&case.report()));
}

const T231_B042: &str = "torch==2.3.1\nbitsandbytes==0.42.0\n";
const T231_B043: &str = "torch==2.3.1\nbitsandbytes==0.43.0\n";
const T260_B045: &str = "torch==2.6.0\nbitsandbytes==0.45.0\n";
const T251_B045: &str = "torch==2.5.1\nbitsandbytes==0.45.0\ndocstrange==1.1.6\nnumpy==2.1.3\n";

#[test]
fn torch_2_3_1_and_bitsandbytes_0_42_0() {
    check(
        &case(T231_B042, "RTX 5090"),
        expect![[r#"
        works: Some(false)
        torch: CUDA 12.1, None
        bitsandbytes: libbitsandbytes_cuda121.so, Loads, Some(None), imports Some(true)
        Error no_kernel_image
        Error no_kernel_image
    "#]],
    );
    check(
        &case(T231_B042, "RTX 4090"),
        expect![[r#"
        works: Some(true)
        torch: CUDA 12.1, Runs
        bitsandbytes: libbitsandbytes_cuda121.so, Loads, Some(Runs), imports Some(true)
    "#]],
    );
    check(
        &case(T231_B042, "A40"),
        expect![[r#"
        works: Some(true)
        torch: CUDA 12.1, Runs
        bitsandbytes: libbitsandbytes_cuda121.so, Loads, Some(Runs), imports Some(true)
    "#]],
    );
}

#[test]
fn an_override_adds_no_support() {
    let with = |version| Case { bnb_cuda_version: Some(version), ..case(T231_B042, "RTX 5090") };
    check(
        &with("121"),
        expect![[r#"
        works: Some(false)
        torch: CUDA 12.1, None
        bitsandbytes: libbitsandbytes_cuda121.so, Loads, Some(None), imports Some(true)
        Error no_kernel_image
        Error no_kernel_image
    "#]],
    );
    check(
        &with("128"),
        expect![[r#"
        works: Some(false)
        torch: CUDA 12.1, None
        bitsandbytes: nothing, RaisesAtImport, None, imports Some(true)
        Error no_kernel_image
        Error bitsandbytes_library_missing
    "#]],
    );
    let report = Case { gpu: "RTX 4090", ..with("118") }.report();
    assert_eq!(report.bitsandbytes.unwrap().happens, WhatHappens::CannotLoad);
}

#[test]
fn torch_2_3_1_and_bitsandbytes_0_43_0() {
    check(
        &case(T231_B043, "RTX 5090"),
        expect![[r#"
        works: Some(false)
        torch: CUDA 12.1, None
        bitsandbytes: libbitsandbytes_cuda121.so, Loads, Some(Jit), imports Some(true)
        Error no_kernel_image
    "#]],
    );
    check(
        &case(T231_B043, "RTX 4090"),
        expect![[r#"
        works: Some(true)
        torch: CUDA 12.1, Runs
        bitsandbytes: libbitsandbytes_cuda121.so, Loads, Some(Runs), imports Some(true)
    "#]],
    );
    check(
        &case(T231_B043, "A40"),
        expect![[r#"
        works: Some(true)
        torch: CUDA 12.1, Runs
        bitsandbytes: libbitsandbytes_cuda121.so, Loads, Some(Runs), imports Some(true)
    "#]],
    );
}

#[test]
fn torch_2_6_0_and_bitsandbytes_0_45_0() {
    check(
        &case(T260_B045, "RTX 5090"),
        expect![[r#"
        works: Some(false)
        torch: CUDA 12.4, None
        bitsandbytes: libbitsandbytes_cuda124.so, Loads, Some(Jit), imports Some(false)
        Error no_kernel_image
        Error import_missing
    "#]],
    );
    check(
        &case(T260_B045, "RTX 4090"),
        expect![[r#"
        works: Some(false)
        torch: CUDA 12.4, Runs
        bitsandbytes: libbitsandbytes_cuda124.so, Loads, Some(Runs), imports Some(false)
        Error import_missing
    "#]],
    );
    check(
        &case(T260_B045, "A40"),
        expect![[r#"
        works: Some(false)
        torch: CUDA 12.4, Runs
        bitsandbytes: libbitsandbytes_cuda124.so, Loads, Some(Runs), imports Some(false)
        Error import_missing
    "#]],
    );
}

#[test]
fn torch_2_5_1_bitsandbytes_0_45_0_and_docstrange() {
    check(
        &case(T251_B045, "RTX 5090"),
        expect![[r#"
        works: Some(false)
        torch: CUDA 12.4, None
        bitsandbytes: libbitsandbytes_cuda124.so, Loads, Some(Jit), imports Some(true)
        Error no_kernel_image
        Error version_conflict
    "#]],
    );
    check(
        &case(T251_B045, "RTX 4090"),
        expect![[r#"
        works: Some(false)
        torch: CUDA 12.4, Runs
        bitsandbytes: libbitsandbytes_cuda124.so, Loads, Some(Runs), imports Some(true)
        Error version_conflict
        Warning no_kernel_image
    "#]],
    );
    check(
        &case(T251_B045, "A40"),
        expect![[r#"
        works: Some(false)
        torch: CUDA 12.4, Runs
        bitsandbytes: libbitsandbytes_cuda124.so, Loads, Some(Runs), imports Some(true)
        Error version_conflict
        Warning no_kernel_image
    "#]],
    );
}

#[test]
fn the_assertion_that_wanted_12_4_or_12_6() {
    let dockerfile = |torch: &str| {
        format!(
            "FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04\nRUN pip install {torch} bitsandbytes==0.45.0\n\
             RUN python -c \"import torch; assert torch.version.cuda in ('12.4', '12.6')\"\n"
        )
    };
    let check = |torch: &str, expected: bool| {
        let text = dockerfile(torch);
        let report = case(&text, "RTX 4090")
            .with("Dockerfile", |targets, query| audit(targets, query).unwrap());
        let fails = report.findings.iter().any(|finding| finding.id == "assertion_cannot_hold");
        assert_eq!(!fails, expected, "{torch}: {:?}", report.findings);
    };
    check("torch==2.6.0", true);
    check("torch==2.3.1", false);
    check("torch==2.7.1", true);
}

/// A claim of theirs, and what is true.
#[track_caller]
fn decide(case: &Case, claim: &str, expected: Truth) {
    let assertions = Assertions::parse(&format!("[[assert]]\n{claim}\n")).unwrap();
    let report = serde_json::to_value(case.report()).unwrap();
    let outcome = &assertions.check(&report)[0];
    assert_eq!(outcome.truth, expected, "{outcome:?}");
    assert!(expected == Truth::Undecidable || !outcome.evidence.is_empty(), "{outcome:?}");
}

#[test]
fn claims_of_their_documents() {
    decide(
        &case(T260_B045, "RTX 5090"),
        "claim = 'RTX 5090 is compute capability 9.0'\npath = 'gpu.compute_capability'\nop = '=='\nvalue = '9.0'",
        Truth::False,
    );
    decide(
        &case("--index-url https://example.org/whl/cu124\ntorch==2.6.0", "RTX 5090"),
        "claim = 'the cu124 index bundles CUDA 12.6'\npath = 'torch.cuda'\nop = '=='\nvalue = '12.6'",
        Truth::False,
    );
    decide(
        &case(T231_B043, "RTX 4090"),
        "claim = '0.43 needs torch 2.4'\npath = 'bitsandbytes.requires_torch'\nop = 'contains'\nvalue = '2.4'",
        Truth::False,
    );
    decide(
        &case(T231_B043, "RTX 5090"),
        "claim = 'CUDA 12.1 binaries are forward compatible with sm_120'\npath = 'torch.device_code.verdict'\n\
         op = 'in'\nvalue = ['runs', 'jit']",
        Truth::False,
    );
    decide(
        &case(T231_B043, "RTX 5090"),
        "claim = '4-bit Mixtral takes 16-17 GB'\npath = 'model.weights_bytes'\nop = '<='\nvalue = 17000000000",
        Truth::Undecidable,
    );
}

fn changes(fix: &Fix) -> String {
    let words = fix.changes.iter().map(|change| {
        let text = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".into());
        format!("{} {} -> {}\n", change.name, text(&change.from), text(&change.to))
    });
    format!(
        "{:?}\n{}{}",
        fix.outcome,
        words.collect::<String>(),
        fix.diff.lines().skip(2).map(|l| format!("{l}\n")).collect::<String>()
    )
}

#[test]
fn the_smallest_change_of_pins() {
    let check = |case: Case, expected: Expect| expected.assert_eq(&changes(&case.fix()));
    check(
        case(T231_B042, "RTX 4090"),
        expect![[r#"
        NothingToDo
    "#]],
    );
    check(
        case(T231_B042, "RTX 5090"),
        expect![[r#"
        Fixed
        bitsandbytes 0.42.0 -> 0.45.3
        torch 2.3.1 -> 2.8.0
        @@ -1,2 +1,2 @@
        -torch==2.3.1
        +torch==2.8.0
        -bitsandbytes==0.42.0
        +bitsandbytes==0.45.3
    "#]],
    );
    check(
        case(T260_B045, "RTX 4090"),
        expect![[r#"
        Fixed
        bitsandbytes 0.45.0 -> 0.45.1
        @@ -1,2 +1,2 @@
         torch==2.6.0
        -bitsandbytes==0.45.0
        +bitsandbytes==0.45.1
    "#]],
    );
    check(
        Case { bnb_cuda_version: Some("128"), ..case(T231_B043, "RTX 4090") },
        expect![[r#"
        Fixed
        BNB_CUDA_VERSION 128 -> none
    "#]],
    );
    check(
        case(T251_B045, "A40"),
        expect![[r#"
        Fixed
        numpy 2.1.3 -> >=1.21.0, <2.0.0
        @@ -1,4 +1,4 @@
         torch==2.5.1
         bitsandbytes==0.45.0
         docstrange==1.1.6
        -numpy==2.1.3
        +numpy>=1.21.0,<2.0.0
    "#]],
    );
    let contradiction = format!("{T251_B045}numpy>=2\n");
    assert_eq!(case(&contradiction, "A40").fix().outcome, FixOutcome::NoneExists);
}
