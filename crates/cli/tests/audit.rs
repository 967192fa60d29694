//! `halfbyte audit` as a user runs it, on the stacks that a team ran.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;
#[path = "../../fetch/tests/support/mod.rs"]
mod web;

use std::fs;
use std::io::{Cursor, Write};

use expect_test::{Expect, expect};
use serde_json::Value;
use support::halfbyte;
use web::{Server, file, reply};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Everything that a run on one file writes, with the file's folder as DIR.
#[track_caller]
fn check(name: &str, text: &str, args: &[&str], expected: Expect) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    let run = halfbyte(&[&["audit", path.to_str().unwrap()], args].concat());
    let name = folder.path().file_name().unwrap().to_str().unwrap();
    expected.assert_eq(&run.text().replace(&format!("TMP/{name}"), "DIR"));
}

const OLD_STACK: &str = "torch==2.3.1\nbitsandbytes==0.42.0\n";

#[test]
fn an_old_stack_on_new_and_old_cards() {
    check(
        "requirements.txt",
        OLD_STACK,
        &["--gpu", "RTX 5090"],
        expect![[r#"
        exit 5
        --- stdout
        gpu: RTX 5090 (compute capability 12.0)
        torch 2.3.1: CUDA 12.1; it has sm_50, sm_60, sm_70, sm_75, sm_80, sm_86, sm_90; compute capability 12.0 runs machine code of major 12 up to minor 0, or compiles PTX of 120 or older, and neither is there
        bitsandbytes 0.42.0: libbitsandbytes_cuda121.so; it has sm_75, sm_80, sm_86, sm_89, sm_90; compute capability 12.0 runs machine code of major 12 up to minor 0, or compiles PTX of 120 or older, and neither is there
        bitsandbytes 0.42.0: pinned (DIR/requirements.txt:2: bitsandbytes==0.42.0)
        torch 2.3.1: pinned (DIR/requirements.txt:1: torch==2.3.1)
        triton 2.3.1: pinned by a package (torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch-2.3.1.dist-info/METADATA: Requires-Dist: triton (==2.3.1) ; platform_system == "Linux" and platform_machine == "x86_64" and python_version < "3.12")
        error: torch 2.3.1 (libtorch_cuda.so) has no GPU code for the RTX 5090 ("no kernel image is available"): it has sm_50, sm_60, sm_70, sm_75, sm_80, sm_86, sm_90; compute capability 12.0 runs machine code of major 12 up to minor 0, or compiles PTX of 120 or older, and neither is there
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d63fa8: 332 x sm_50
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d67600: 332 x sm_60
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d6ac50: 332 x sm_70
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d713b8: 332 x sm_75
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d77248: 332 x sm_80
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d7f7e8: 332 x sm_86
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d88470: 332 x sm_90
          -> take torch 2.8.0 or another release with code for compute capability 12.0
        error: bitsandbytes 0.42.0 (libbitsandbytes_cuda121.so) has no GPU code for the RTX 5090 ("no kernel image is available"): it has sm_75, sm_80, sm_86, sm_89, sm_90; compute capability 12.0 runs machine code of major 12 up to minor 0, or compiles PTX of 120 or older, and neither is there
          bitsandbytes-0.42.0-py3-none-any.whl!bitsandbytes/libbitsandbytes_cuda121.so@0x2e3570: 1 x sm_75
          bitsandbytes-0.42.0-py3-none-any.whl!bitsandbytes/libbitsandbytes_cuda121.so@0x50b020: 1 x sm_80
          bitsandbytes-0.42.0-py3-none-any.whl!bitsandbytes/libbitsandbytes_cuda121.so@0x72bdd0: 1 x sm_86
          bitsandbytes-0.42.0-py3-none-any.whl!bitsandbytes/libbitsandbytes_cuda121.so@0x94d000: 1 x sm_89
          bitsandbytes-0.42.0-py3-none-any.whl!bitsandbytes/libbitsandbytes_cuda121.so@0xb6df30: 1 x sm_90
          -> take bitsandbytes 0.49.2, which works with torch 2.3.1 here
        verdict: does not work
        --- stderr
        2 findings
    "#]],
    );
    check(
        "requirements.txt",
        OLD_STACK,
        &["--gpu", "RTX 4090"],
        expect![[r#"
        exit 0
        --- stdout
        gpu: RTX 4090 (compute capability 8.9)
        torch 2.3.1: CUDA 12.1; it has sm_50, sm_60, sm_70, sm_75, sm_80, sm_86, sm_90; 332 of 332 containers have machine code that compute capability 8.9 runs
        bitsandbytes 0.42.0: libbitsandbytes_cuda121.so; it has sm_75, sm_80, sm_86, sm_89, sm_90; 1 of 1 containers have machine code that compute capability 8.9 runs
        bitsandbytes 0.42.0: pinned (DIR/requirements.txt:2: bitsandbytes==0.42.0)
        torch 2.3.1: pinned (DIR/requirements.txt:1: torch==2.3.1)
        triton 2.3.1: pinned by a package (torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch-2.3.1.dist-info/METADATA: Requires-Dist: triton (==2.3.1) ; platform_system == "Linux" and platform_machine == "x86_64" and python_version < "3.12")
        findings: none
        verdict: works
    "#]],
    );
    check(
        "requirements.txt",
        OLD_STACK,
        &["--gpu", "A40", "--driver", "470.82"],
        expect![[r#"
        exit 5
        --- stdout
        gpu: A40 (compute capability 8.6)
        driver: 470.82 (CUDA 11.4)
        torch 2.3.1: CUDA 12.1; it has sm_50, sm_60, sm_70, sm_75, sm_80, sm_86, sm_90; 332 of 332 containers have machine code that compute capability 8.6 runs
        bitsandbytes 0.42.0: libbitsandbytes_cuda121.so; it has sm_75, sm_80, sm_86, sm_89, sm_90; 1 of 1 containers have machine code that compute capability 8.6 runs
        bitsandbytes 0.42.0: pinned (DIR/requirements.txt:2: bitsandbytes==0.42.0)
        torch 2.3.1: pinned (DIR/requirements.txt:1: torch==2.3.1)
        triton 2.3.1: pinned by a package (torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch-2.3.1.dist-info/METADATA: Requires-Dist: triton (==2.3.1) ; platform_system == "Linux" and platform_machine == "x86_64" and python_version < "3.12")
        error: torch 2.3.1 was built with CUDA 12.1, and driver 470.82 knows CUDA 11.4 at most: a newer major does not start
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/version.py:6: cuda: Optional[str] = '12.1'
          CUDA Toolkit Release Notes, tables 2 and 3 (Linux x86_64): driver 470.82: CUDA 11.4
          -> update the host's driver to 525.60 or later, or take a torch built with CUDA 11; NVIDIA's forward compatibility packages are for data-centre cards only
        verdict: does not work
        --- stderr
        1 finding
    "#]],
    );
}

#[test]
fn an_override_adds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("requirements.txt");
    fs::write(&path, OLD_STACK).unwrap();
    let card = ["audit", path.to_str().unwrap(), "--gpu", "RTX 5090"];
    let without = halfbyte(&card);
    let with = halfbyte(&[&card[..], &["--env", "BNB_CUDA_VERSION=121"]].concat());
    assert_eq!((without.code, with.code), (5, 5));
    let added: Vec<&str> =
        with.stdout.lines().filter(|line| !without.stdout.contains(line)).collect();
    expect![[r#"
        note: BNB_CUDA_VERSION changes nothing: torch 2.3.1 was built with CUDA 12.1, for which bitsandbytes takes libbitsandbytes_cuda121.so anyway; the name says a CUDA version, never a card
          --env: BNB_CUDA_VERSION=121
          -> remove BNB_CUDA_VERSION"#]]
    .assert_eq(&added.join("\n"));
    let newer = "torch==2.3.1\nbitsandbytes==0.43.0\n";
    check(
        "requirements.txt",
        newer,
        &["--gpu", "RTX 5090"],
        expect![[r#"
        exit 5
        --- stdout
        gpu: RTX 5090 (compute capability 12.0)
        torch 2.3.1: CUDA 12.1; it has sm_50, sm_60, sm_70, sm_75, sm_80, sm_86, sm_90; compute capability 12.0 runs machine code of major 12 up to minor 0, or compiles PTX of 120 or older, and neither is there
        bitsandbytes 0.43.0: libbitsandbytes_cuda121.so; it has sm_50, sm_52, sm_60, sm_61, sm_70, sm_75, sm_80, sm_86, sm_89, sm_90, compute_90; the driver compiles the PTX for compute capability 12.0 at the first use
        bitsandbytes 0.43.0: pinned (DIR/requirements.txt:2: bitsandbytes==0.43.0)
        torch 2.3.1: pinned (DIR/requirements.txt:1: torch==2.3.1)
        triton 2.3.1: pinned by a package (torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch-2.3.1.dist-info/METADATA: Requires-Dist: triton (==2.3.1) ; platform_system == "Linux" and platform_machine == "x86_64" and python_version < "3.12")
        error: torch 2.3.1 (libtorch_cuda.so) has no GPU code for the RTX 5090 ("no kernel image is available"): it has sm_50, sm_60, sm_70, sm_75, sm_80, sm_86, sm_90; compute capability 12.0 runs machine code of major 12 up to minor 0, or compiles PTX of 120 or older, and neither is there
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d63fa8: 332 x sm_50
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d67600: 332 x sm_60
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d6ac50: 332 x sm_70
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d713b8: 332 x sm_75
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d77248: 332 x sm_80
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d7f7e8: 332 x sm_86
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libtorch_cuda.so@0x3d88470: 332 x sm_90
          -> take torch 2.8.0 or another release with code for compute capability 12.0
        note: bitsandbytes 0.43.0 (libbitsandbytes_cuda121.so) starts slowly on the RTX 5090: it has sm_50, sm_52, sm_60, sm_61, sm_70, sm_75, sm_80, sm_86, sm_89, sm_90, compute_90; the driver compiles the PTX for compute capability 12.0 at the first use
          bitsandbytes-0.43.0-py3-none-manylinux_2_24_x86_64.whl!bitsandbytes/libbitsandbytes_cuda121.so@0x661708: 1 x sm_50
          bitsandbytes-0.43.0-py3-none-manylinux_2_24_x86_64.whl!bitsandbytes/libbitsandbytes_cuda121.so@0x7e8158: 1 x sm_52
          and 9 more, with --json
          -> nothing; or take a release with machine code for it
        verdict: does not work
        --- stderr
        1 finding
    "#]],
    );
}

#[test]
fn an_assertion_in_a_dockerfile() {
    let dockerfile = "FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04\n\
                      RUN pip install torch==2.6.0 bitsandbytes==0.45.0\n\
                      RUN python -c \"import torch; assert torch.version.cuda in ('12.4', '12.6')\"\n";
    check(
        "Dockerfile",
        dockerfile,
        &["--gpu", "RTX 4090"],
        expect![[r#"
        exit 5
        --- stdout
        gpu: RTX 4090 (compute capability 8.9)
        torch 2.6.0: CUDA 12.4; it has sm_50, sm_60, sm_70, sm_75, sm_80, sm_86, sm_90, sm_90a; 341 of 341 containers have machine code that compute capability 8.9 runs
        bitsandbytes 0.45.0: libbitsandbytes_cuda124.so; it has sm_50, sm_52, sm_60, sm_61, sm_70, sm_75, sm_80, sm_86, sm_89, sm_90; 1 of 1 containers have machine code that compute capability 8.9 runs
        bitsandbytes 0.45.0: pinned (DIR/Dockerfile:2: bitsandbytes==0.45.0)
        torch 2.6.0: pinned (DIR/Dockerfile:2: torch==2.6.0)
        triton 3.2.0: pinned by a package (torch-2.6.0-cp311-cp311-manylinux1_x86_64.whl!torch-2.6.0.dist-info/METADATA: Requires-Dist: triton (==3.2.0) ; platform_system == "Linux" and platform_machine == "x86_64")
        error: `import bitsandbytes` 0.45.0 asks for triton.ops.matmul_perf_model, which triton 3.2.0 does not have ("No module named 'triton.ops'"); it gets there by bitsandbytes/__init__.py -> bitsandbytes/nn/__init__.py -> bitsandbytes/nn/triton_based_modules.py -> bitsandbytes/triton/int8_matmul_mixed_dequantize.py
          bitsandbytes-0.45.0-py3-none-manylinux_2_24_x86_64.whl!bitsandbytes/triton/int8_matmul_mixed_dequantize.py:12: from triton.ops.matmul_perf_model import early_config_prune, estimate_matmul_time
          torch-2.6.0-cp311-cp311-manylinux1_x86_64.whl!torch-2.6.0.dist-info/METADATA: Requires-Dist: triton (==3.2.0) ; platform_system == "Linux" and platform_machine == "x86_64"
          -> take bitsandbytes 0.50.2, which works with torch 2.6.0 here
        verdict: does not work
        --- stderr
        1 finding
    "#]],
    );
}

#[test]
fn numpy_between_packages() {
    let stack = "torch==2.5.1\nbitsandbytes==0.45.0\ndocstrange==1.1.6\nnumpy==2.1.3\n";
    check(
        "requirements.txt",
        stack,
        &["--gpu", "A40"],
        expect![[r#"
        exit 5
        --- stdout
        gpu: A40 (compute capability 8.6)
        torch 2.5.1: CUDA 12.4; it has sm_50, sm_60, sm_70, sm_75, sm_80, sm_86, sm_90, sm_90a; 340 of 340 containers have machine code that compute capability 8.6 runs
        bitsandbytes 0.45.0: libbitsandbytes_cuda124.so; it has sm_50, sm_52, sm_60, sm_61, sm_70, sm_75, sm_80, sm_86, sm_89, sm_90; 1 of 1 containers have machine code that compute capability 8.6 runs
        bitsandbytes 0.45.0: pinned (DIR/requirements.txt:2: bitsandbytes==0.45.0)
        docstrange 1.1.6: pinned (DIR/requirements.txt:3: docstrange==1.1.6)
        numpy 2.1.3: pinned (DIR/requirements.txt:4: numpy==2.1.3)
        torch 2.5.1: pinned (DIR/requirements.txt:1: torch==2.5.1)
        triton 3.1.0: pinned by a package (torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl!torch-2.5.1.dist-info/METADATA: Requires-Dist: triton (==3.1.0) ; platform_system == "Linux" and platform_machine == "x86_64" and python_version < "3.13")
        error: docstrange 1.1.6 needs numpy>=1.21.0, <2.0.0, and numpy is 2.1.3
          docstrange-1.1.6-py3-none-any.whl!docstrange-1.1.6.dist-info/METADATA: Requires-Dist: numpy<2.0.0,>=1.21.0
          DIR/requirements.txt:4: numpy==2.1.3
          -> pin numpy>=1.21.0, <2.0.0
        warning: torch 2.5.1 (libcusparseLt-294d6944.so.0) has no GPU code for the A40 ("no kernel image is available"): it has sm_80, sm_86, sm_87, sm_89, sm_90, sm_90a, compute_52, compute_80, compute_86, compute_89, compute_90, but only 286 of 2513 containers have any for compute capability 8.6: the other kernels have none
          torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libcusparseLt-294d6944.so.0@0x9b8ef30: 150 x sm_80
          torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libcusparseLt-294d6944.so.0@0x9a41870: 215 x sm_86
          torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libcusparseLt-294d6944.so.0@0x9a45650: 284 x sm_87
          torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libcusparseLt-294d6944.so.0@0xc6ac998: 1 x sm_89
          torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libcusparseLt-294d6944.so.0@0xc700608: 1 x sm_90
          torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libcusparseLt-294d6944.so.0@0xc48b50: 2511 x sm_90a
          torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libcusparseLt-294d6944.so.0@0xc7437c0: 1 x compute_52, PTX 8.5
          torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libcusparseLt-294d6944.so.0@0xbb1b190: 2 x compute_80, PTX 8.4
          torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libcusparseLt-294d6944.so.0@0xc5b5430: 1 x compute_86, PTX 8.4
          torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libcusparseLt-294d6944.so.0@0xc699700: 1 x compute_89, PTX 8.4
          torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl!torch/lib/libcusparseLt-294d6944.so.0@0xc6edd80: 1 x compute_90, PTX 8.4
          -> take torch 2.1.2 or another release with code for compute capability 8.6
        verdict: does not work
        --- stderr
        2 findings
    "#]],
    );
    check(
        "requirements.txt",
        stack,
        &["--gpu", "A40", "--fix"],
        expect![[r#"
        exit 5
        --- stdout
        fix: numpy 2.1.3 -> >=1.21.0, <2.0.0 makes it work; no smaller change among the known releases does
        numpy -> >=1.21.0, <2.0.0 (DIR/requirements.txt:4: numpy==2.1.3)
          because docstrange 1.1.6 needs numpy>=1.21.0, <2.0.0, and numpy is 2.1.3
        --- DIR/requirements.txt
        +++ DIR/requirements.txt
        @@ -1,4 +1,4 @@
         torch==2.5.1
         bitsandbytes==0.45.0
         docstrange==1.1.6
        -numpy==2.1.3
        +numpy>=1.21.0,<2.0.0
        to undo it: apply the diff backwards (`patch -R -p0`), and build or install again
        --- stderr
        it takes a change
    "#]],
    );
}

#[test]
fn logs_are_explained() {
    let log = "CUDA Setup failed despite GPU being available.\nModuleNotFoundError: No module named 'triton.ops'\n";
    check(
        "x.log",
        log,
        &[],
        expect![[r#"
        exit 5
        --- stdout
        log: cuda_setup_failed (DIR/x.log:1: CUDA Setup failed despite GPU being available.)
          cause: bitsandbytes found a GPU and could not load its library: it is not in the wheel, or what it needs is not installed
          fix: read the lines above it; `halfbyte audit` of the environment says which of the two
        log: triton_ops (DIR/x.log:2: ModuleNotFoundError: No module named 'triton.ops')
          cause: triton 3.2 dropped `triton.ops`, and a package that was written before imports it
          fix: take a release of that package which does not; for bitsandbytes, `halfbyte audit` names one
        findings: none
        verdict: does not work
        --- stderr
        2 findings
    "#]],
    );
}

#[test]
fn claims_are_decided() {
    let folder = tempfile::tempdir().unwrap();
    let claims = folder.path().join("claims.toml");
    let claim = |claim: &str, path: &str, op: &str, value: &str| {
        format!("[[assert]]\nclaim = '{claim}'\npath = '{path}'\nop = '{op}'\nvalue = {value}\n")
    };
    let text = [
        claim("RTX 5090 is compute capability 9.0", "gpu.compute_capability", "==", "'9.0'"),
        claim("torch 2.3.1 is built with CUDA 12.1", "torch.cuda", "==", "'12.1'"),
        claim("4-bit Mixtral takes 16-17 GB", "model.weights_bytes", "<=", "17_000_000_000"),
        claim("the moon", "torch.moon", "==", "1"),
    ];
    fs::write(&claims, text.concat()).unwrap();
    let claims = claims.to_str().unwrap();
    let args = ["--gpu", "RTX 5090", "--assert", claims, "--model", "mixtral-8x7b"];
    check(
        "requirements.txt",
        OLD_STACK,
        &args,
        expect![[r#"
        exit 5
        --- stdout
        false: RTX 5090 is compute capability 9.0
          gpu.compute_capability is "12.0"
          https://developer.nvidia.com/cuda-gpus (and cuda-legacy-gpus): RTX 5090: 12.0
        true: torch 2.3.1 is built with CUDA 12.1
          torch.cuda is "12.1"
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/version.py:6: cuda: Optional[str] = '12.1'
        false: 4-bit Mixtral takes 16-17 GB
          model.weights_bytes is 24481980672
          shape mixtral-8x7b: 24481980672 bytes: linear layers in NF4 with double quantization, the rest in 16 bits
        undecidable: the moon
          torch.moon is null
          torch-2.3.1-cp311-cp311-manylinux1_x86_64.whl!torch/version.py:6: cuda: Optional[str] = '12.1'
        --- stderr
        2 false claims
    "#]],
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    check(
        "requirements.txt",
        OLD_STACK,
        &["--gpu", "RTX 9090"],
        expect![[r#"
        exit 2
        --- stderr
        error: the GPU `RTX 9090` is not in the table; give its compute capability, as 12.0, or one of: B300, B200, GB200, RTX PRO 6000, RTX PRO 5000, RTX PRO 4500, RTX PRO 4000, RTX 5090, RTX 5080, RTX 5070 Ti, RTX 5070, RTX 5060 Ti, RTX 5060, GB10, H200, H100, GH200, L4, L40, L40S, RTX 6000 Ada, RTX 5000 Ada, RTX 4000 Ada, RTX 4090, RTX 4080 SUPER, RTX 4080, RTX 4070 Ti, RTX 4070, RTX 4060, A40, A10, A10G, A16, A2, RTX A6000, RTX A5000, RTX A4000, RTX 3090 Ti, RTX 3090, RTX 3080, RTX 3070, RTX 3060, A100, A30, T4, V100
    "#]],
    );
    check(
        "requirements.txt",
        OLD_STACK,
        &["--env", "CUDA_HOME=x"],
        expect![[r#"
        exit 2
        --- stderr
        error: invalid value 'CUDA_HOME=x' for '--env <NAME=VALUE>': CUDA_HOME decides nothing here; BNB_CUDA_VERSION does

        For more information, try '--help'.
    "#]],
    );
    check(
        "requirements.txt",
        OLD_STACK,
        &["--driver", "new"],
        expect![[r#"
        exit 2
        --- stderr
        error: `new` is no driver like 550.54 and no CUDA version like 12.4
    "#]],
    );
    check(
        "x.bin",
        "a\0b",
        &[],
        expect![[r#"
        exit 3
        --- stderr
        error: DIR/x.bin: is neither a folder with packages, a wheel, an ELF library, an image, nor a text
    "#]],
    );
    check(
        "claims.txt",
        OLD_STACK,
        &["--assert", "/nonexistent.toml"],
        expect![[r#"
        exit 3
        --- stderr
        error: /nonexistent.toml: No such file or directory (os error 2)
    "#]],
    );
}

/// A wheel of numpy, with ballast that nobody asks for.
fn wheel() -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut file = |name: &str, content: &[u8]| {
        zip.start_file(name, options).unwrap();
        zip.write_all(content).unwrap();
    };
    file("numpy/data.bin", &[7; 4 << 20]);
    file("numpy/__init__.py", b"__version__ = '2.1.3'\n");
    let metadata = "Metadata-Version: 2.1\nName: numpy\nVersion: 2.1.3\nRequires-Python: >=3.10\n";
    file("numpy-2.1.3.dist-info/METADATA", metadata.as_bytes());
    zip.finish().unwrap().into_inner()
}

#[test]
fn of_a_wheel_at_a_url_only_parts_are_read() {
    let content = wheel();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numpy-2.1.3-py3-none-any.whl");
    fs::write(&path, &content).unwrap();
    let len = content.len();
    let server = Server::start(move |request| match request.path.as_str() {
        "/numpy-2.1.3-py3-none-any.whl" => file(request, &content),
        "/cut-1.0-py3-none-any.whl" => file(request, &content[..len / 2]),
        _ => reply("404 Not Found", &[], b""),
    });
    let url = format!("{}/numpy-2.1.3-py3-none-any.whl", server.url);
    let numpy = |target: &str| -> Value {
        let mut report = halfbyte(&["audit", target, "--json"]).json();
        let mut package = report["packages"]["numpy"].take();
        (package["origin"], package["evidence"]["file"]) = (Value::Null, Value::Null);
        package
    };
    let there = numpy(&url);
    assert_eq!(there["version"], "2.1.3");
    assert_eq!(there, numpy(path.to_str().unwrap()));
    let ranges: Vec<_> =
        server.requests.lock().unwrap().iter().map(|r| r.range().unwrap()).collect();
    let asked: usize = ranges.iter().map(|(first, last)| last - first + 1).sum();
    assert!(asked < 2 << 20, "{asked} of {len}: {ranges:?}");
    // A line of facts needs the hash of what was not read.
    let hash = "ab".repeat(32);
    let learned = halfbyte(&["audit", "--learn", &format!("{url}#sha256={hash}")]).json();
    assert_eq!(
        (&learned["sha256"], &learned["origin"]),
        (&hash.into(), &"numpy-2.1.3-py3-none-any.whl".into())
    );
    let check = |args: &[&str], expected: Expect| {
        let run = halfbyte(&[&["audit"], args].concat());
        expected.assert_eq(&run.text().replace(&server.url, "SERVER"));
    };
    check(
        &["--learn", &url],
        expect![[r#"
        exit 3
        --- stderr
        error: SERVER/numpy-2.1.3-py3-none-any.whl: facts are kept with the hash of the whole file, of which parts are read: add #sha256=…, as an index gives it
    "#]],
    );
    check(
        &[&format!("{}/cut-1.0-py3-none-any.whl", server.url)],
        expect![[r#"
        exit 3
        --- stderr
        error: cut-1.0-py3-none-any.whl: damaged: no zip directory at its end; was it downloaded completely?
    "#]],
    );
    check(
        &[&format!("{}/none-1.0-py3-none-any.whl", server.url)],
        expect![[r#"
        exit 3
        --- stderr
        error: SERVER/none-1.0-py3-none-any.whl: there is no such file (404)
    "#]],
    );
    check(
        &[&format!("{}/requirements.txt", server.url)],
        expect![[r#"
        exit 3
        --- stderr
        error: SERVER/requirements.txt: only wheels are read from URLs; fetch the file first
    "#]],
    );
}
