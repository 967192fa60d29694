//! Judging machines. `h200.json` has the form of what one with an H200 shows (the facts of `halfbyte doctor --json`), written by hand; the
//! others are made from it, by what such machines show.

use super::facts::{
    Cuda, CudaDevice, DriverError, Facts, FileSystem, Fit, GpuProcess, LibraryFile, Model, Nvml,
    NvmlGpu, PciGpu, Plan, Probed, Reading, Storage, System,
};
use super::findings::{Severity, judge};
use super::text;

fn h200() -> Facts {
    serde_json::from_str(include_str!("h200.json")).unwrap()
}

fn found<T>(probed: &mut Probed<T>) -> &mut T {
    match probed {
        Probed::Found(facts) => facts,
        _ => panic!("nothing was found"),
    }
}

impl Facts {
    fn device(&mut self) -> &mut CudaDevice {
        &mut found(&mut self.cuda).devices[0]
    }

    fn gpu(&mut self) -> &mut NvmlGpu {
        &mut found(&mut self.nvml).gpus[0]
    }

    fn system(&mut self) -> &mut System {
        found(&mut self.system)
    }

    /// Another card in the same machine.
    fn card(&mut self, name: &str, capability: (u32, u32), bytes: u64, kernels: Option<&str>) {
        let device = self.device();
        name.clone_into(&mut device.name);
        device.compute_capability = capability;
        (device.total_memory, device.free_memory) = (bytes, Some(bytes - 600_000_000));
        device.kernels = kernels.map(str::to_owned);
        self.gpu().name = Some(name.to_owned());
    }
}

/// The driver's library is not there.
fn no_library() -> Probed<Cuda> {
    let message = "NVIDIA's driver library cannot be opened (libcuda.so.1: cannot open shared object file: No such file or \
                   directory); install the driver, in a container start it with `--gpus all`";
    let error = DriverError { no_library: true, code: None, message: message.to_owned() };
    Probed::Found(Cuda {
        cuda_version: None,
        library: None,
        error: Some(error),
        devices: Vec::new(),
    })
}

fn no_nvml() -> Probed<Nvml> {
    Probed::Failed(
        "a libloading error occurred: libnvidia-ml.so.1: cannot open shared object file".to_owned(),
    )
}

/// Mixtral in 4 bits, with what is free on the first GPU.
fn mixtral(facts: &mut Facts, context: usize) {
    let free = facts.device().free_memory.unwrap();
    facts.model = Some(Probed::Found(Model {
        name: "mistralai/Mixtral-8x7B-Instruct-v0.1".to_owned(),
        directory: "/models/mistralai/Mixtral-8x7B-Instruct-v0.1".to_owned(),
        quantized: Some("nf4".to_owned()),
        context: 32_768,
        gpu_plan: Plan {
            weights: 24_219_000_000,
            keys_and_values: 4_294_967_296,
            workspace: 540_000_000,
        },
        cpu_bytes: 33_400_000_000,
        fits: vec![Fit { ordinal: 0, free, context }],
    }));
}

fn storage(kind: &str, bytes_per_second: u64) -> Option<Probed<Storage>> {
    Some(Probed::Found(Storage {
        directory: "/models/mistralai/Mixtral-8x7B-Instruct-v0.1".to_owned(),
        file_system: Some(FileSystem {
            kind: kind.to_owned(),
            source: "store:/vol1".to_owned(),
            mount_point: "/models".to_owned(),
        }),
        space: None,
        files: 3,
        bytes: 24_480_000_000,
        cached_bytes: Some(1_200_000_000),
        reading: Some(Reading { bytes: bytes_per_second, seconds: 1.0, threads: 4, problem: None }),
    }))
}

/// Severities and names of the findings.
#[track_caller]
fn check(change: impl FnOnce(&mut Facts), expected: &[&str]) {
    let mut facts = h200();
    change(&mut facts);
    let found = judge(&facts).into_iter().map(|finding| {
        assert!(!finding.evidence.is_empty() && !finding.fix.is_empty(), "{finding:?}");
        format!("{} {}", finding.severity.name(), finding.id)
    });
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

/// Lines that the report has.
#[track_caller]
fn check_report(facts: &Facts, expected: &[&str]) {
    let report = text::report(facts, &judge(facts));
    for line in expected {
        assert!(report.lines().any(|found| found.trim() == *line), "`{line}` is not in\n{report}");
    }
}

#[test]
fn a_machine_as_it_should_be() {
    let mut facts = h200();
    mixtral(&mut facts, 32_768);
    facts.storage = storage("ext4", 3_000_000_000);
    check_report(
        &facts,
        &[
            "cuda:0: NVIDIA H200, compute capability 9.0, 150.11 GB (149.00 GB free), kernels for sm_90a",
            "note: mistralai/Mixtral-8x7B-Instruct-v0.1 fits",
        ],
    );
}

#[test]
fn a_5090_in_a_container_without_the_driver() {
    let mut facts = h200();
    (facts.cuda, facts.nvml) = (no_library(), no_nvml());
    let files = found(&mut facts.driver);
    (files.nodes, files.libraries) = (Vec::new(), Vec::new());
    files.pci = vec![PciGpu {
        address: "0000:01:00.0".to_owned(),
        id: "10de:2b85".to_owned(),
        driver: Some("nvidia".to_owned()),
    }];
    facts.system().container = Some("docker (/.dockerenv)".to_owned());
    check_report(
        &facts,
        &[
            "driver: 570.86.10 in the kernel, open",
            "gpus: none",
            "error: the host has an NVIDIA GPU, but this container was started without it",
            "PCI 0000:01:00.0 is 10de:2b85 (nvidia)",
        ],
    );
}

#[test]
fn a_machine_without_a_gpu_has_no_errors() {
    let bare = |facts: &mut Facts| {
        (facts.cuda, facts.nvml) = (no_library(), no_nvml());
        let files = found(&mut facts.driver);
        (files.nodes, files.libraries, files.pci, files.module) =
            (Vec::new(), Vec::new(), Vec::new(), None);
    };
    check(bare, &["note no_gpu"]);
    let mut facts = h200();
    bare(&mut facts);
    assert!(judge(&facts).iter().all(|finding| finding.severity == Severity::Note));
}

#[test]
fn what_is_missing_of_the_driver() {
    // A GPU on the bus, and nothing else.
    check(
        |facts| {
            (facts.cuda, facts.nvml) = (no_library(), no_nvml());
            let files = found(&mut facts.driver);
            (files.nodes, files.libraries, files.module) = (Vec::new(), Vec::new(), None);
            for gpu in &mut files.pci {
                gpu.driver = Some("nouveau".to_owned());
            }
            facts.system().container = None;
        },
        &["error no_device_nodes", "note nvml_missing"],
    );
    // The runtime was asked for graphics only.
    check(
        |facts| {
            (facts.cuda, facts.nvml) = (no_library(), no_nvml());
            found(&mut facts.driver).libraries.clear();
            let variables = &mut facts.system().environment;
            variables
                .insert("NVIDIA_DRIVER_CAPABILITIES".to_owned(), "graphics,utility".to_owned());
        },
        &["error no_driver_library", "note nvml_missing"],
    );
    // Single devices were given to the container.
    check(
        |facts| {
            let files = found(&mut facts.driver);
            files.nodes.retain(|node| node.path != "/dev/nvidia-uvm");
            files.nodes[0].problem = Some("Operation not permitted (os error 1)".to_owned());
        },
        &["error device_nodes_unusable"],
    );
}

fn failed(code: u32, message: &str) -> Option<DriverError> {
    Some(DriverError { no_library: false, code: Some(code), message: message.to_owned() })
}

#[test]
fn drivers_that_do_not_fit() {
    // The library was updated, the module was not.
    check(
        |facts| {
            let cuda = found(&mut facts.cuda);
            cuda.devices.clear();
            cuda.error = failed(803, "starting the driver: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH");
            for library in &mut found(&mut facts.driver).libraries {
                library.version = Some("999.1".to_owned());
            }
            facts.nvml = Probed::Failed("an internal driver error".to_owned());
        },
        &["error driver_mismatch", "note nvml_missing"],
    );
    // A compatibility package on a card that it does not serve.
    check(
        |facts| {
            let cuda = found(&mut facts.cuda);
            cuda.devices.clear();
            cuda.library = Some("/usr/local/cuda/compat/libcuda.so.999.1".to_owned());
            cuda.error =
                failed(804, "starting the driver: CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE");
            let compat = LibraryFile {
                name: "libcuda.so.1".to_owned(),
                path: "/usr/local/cuda/compat/libcuda.so.1".to_owned(),
                version: Some("999.1".to_owned()),
                mounted: false,
                compat: true,
            };
            found(&mut facts.driver).libraries.insert(0, compat);
        },
        &["error driver_mismatch"],
    );
    // Too old for machine code of CUDA 12.
    check(
        |facts| {
            let cuda = found(&mut facts.cuda);
            cuda.devices.clear();
            cuda.cuda_version = Some((11, 4));
            cuda.error = Some(DriverError {
                no_library: false,
                code: None,
                message: "the driver knows CUDA 11.4 at most, 12.0 is needed".to_owned(),
            });
        },
        &["error driver_unusable"],
    );
    // A card of tomorrow, a driver of yesterday.
    let tomorrow = |driver: (u32, u32)| {
        move |facts: &mut Facts| {
            facts.card("NVIDIA X100", (13, 0), 100_000_000_000, Some("compute_120"));
            facts.device().kernels_are_ptx = true;
            facts.program.cuda_kernels.compiler_version = Some((12, 9));
            found(&mut facts.cuda).cuda_version = Some(driver);
        }
    };
    check(tomorrow((12, 4)), &["error driver_too_old_for_ptx"]);
    check(tomorrow((13, 2)), &["note kernels_from_ptx"]);
}

#[test]
fn a_driver_that_hangs_or_falls() {
    check(
        |facts| {
            facts.cuda = Probed::TimedOut(20);
            facts.nvml = Probed::Died("signal: 11 (SIGSEGV)".to_owned());
        },
        &["error no_answer", "error probe_died"],
    );
    check(
        |facts| {
            facts.storage = Some(Probed::TimedOut(20));
            facts.model = Some(Probed::TimedOut(20));
        },
        &["error no_answer", "error no_answer"],
    );
    check(
        |facts| {
            facts.storage = Some(Probed::Failed("no such model".to_owned()));
            facts.model = Some(Probed::Failed("no such model".to_owned()));
        },
        &["error model_unreadable"],
    );
}

#[test]
fn a_v100_is_too_old() {
    let v100 = |facts: &mut Facts| {
        facts.card("Tesla V100-SXM2-16GB", (7, 0), 16_900_000_000, None);
        facts.device().no_kernels = Some("no kernels for compute capability 7.0".to_owned());
    };
    check(v100, &["error card_too_old"]);
    // Beside a card that serves, it is less bad.
    check(
        |facts| {
            let mut old = facts.device().clone();
            (old.ordinal, old.compute_capability, old.uuid) = (1, (7, 0), "GPU-1".to_owned());
            old.name = "Tesla V100-SXM2-16GB".to_owned();
            found(&mut facts.cuda).devices.push(old);
        },
        &["warning card_too_old"],
    );
}

#[test]
fn cards_that_are_not_what_they_could_be() {
    check(
        |facts| {
            facts.card("NVIDIA A40", (8, 6), 48_300_000_000, Some("sm_86"));
            let gpu = facts.gpu();
            gpu.throttling =
                vec!["hardware slowdown".to_owned(), "hardware thermal slowdown".to_owned()];
            (gpu.temperature_c, gpu.slowdown_c) = (Some(96), Some(95));
            (gpu.sm_clock_mhz, gpu.sm_clock_max_mhz) = (Some(705), Some(1740));
            (gpu.pcie.width, gpu.pcie.width_max) = (Some(4), Some(16));
            gpu.persistence = Some(false);
        },
        &["warning throttled", "warning narrow_link", "note no_persistence"],
    );
    check(
        |facts| {
            let gpu = facts.gpu();
            (gpu.power.cap_w, gpu.power.default_cap_w) = (Some(300), Some(700));
            gpu.mig = Some(true);
            gpu.compute_mode = Some("exclusive process".to_owned());
        },
        &["warning low_power_cap", "note mig", "note compute_exclusive"],
    );
    check(
        |facts| {
            facts.gpu().throttling = vec!["power cap".to_owned()];
            facts.gpu().compute_mode = Some("prohibited".to_owned());
            facts.device().error = failed(46, "opening cuda:0: CUDA_ERROR_DEVICE_UNAVAILABLE");
        },
        &["error card_unusable", "error compute_prohibited", "note throttled"],
    );
}

#[test]
fn memory_that_is_faulty() {
    check(|facts| facts.gpu().ecc.uncorrected = Some(3), &["error memory_errors"]);
    check(|facts| facts.gpu().ecc.repair_pending = Some(true), &["warning memory_repair_pending"]);
    check(|facts| facts.gpu().ecc.repair_failed = Some(true), &["error memory_faulty"]);
    // What was dealt with long ago is no finding.
    check(|facts| facts.gpu().ecc.uncorrected_ever = Some(3), &[]);
}

#[test]
fn gpus_that_are_hidden_or_taken() {
    check(
        |facts| {
            found(&mut facts.cuda).devices.clear();
            facts.system().environment.insert("CUDA_VISIBLE_DEVICES".to_owned(), String::new());
        },
        &["error gpus_hidden"],
    );
    check(
        |facts| {
            let memory = facts.gpu().memory.as_mut().unwrap();
            (memory.used, memory.free) = (memory.total - 1_000_000_000, 1_000_000_000);
            facts.device().free_memory = Some(1_000_000_000);
            let process = GpuProcess {
                pid: 4711,
                name: Some("python".to_owned()),
                bytes: Some(140_000_000_000),
            };
            facts.gpu().processes = vec![process];
            mixtral(facts, 0);
        },
        &["error model_does_not_fit", "note memory_taken"],
    );
}

#[test]
fn models_that_fit_in_part_or_come_slowly() {
    check(
        |facts| {
            facts.card("NVIDIA GeForce RTX 4090", (8, 9), 25_250_000_000, Some("sm_89"));
            mixtral(facts, 1_552);
            facts.storage = storage("nfs4", 180_000_000);
            facts.system().memory.limit = Some(16_000_000_000);
        },
        &["warning context_is_cut", "warning slow_storage", "note cache_limited"],
    );
    check(
        |facts| facts.storage = storage("fuse.juicefs", 2_000_000_000),
        &["note network_storage"],
    );
    check(
        |facts| {
            found(&mut facts.cuda).devices.clear();
            facts.system().memory.available = Some(16_000_000_000);
            facts.system().cpu.quota = Some(2.5);
            facts.model = Some(Probed::Found(Model {
                name: "qwen".to_owned(),
                directory: "/models/qwen".to_owned(),
                quantized: None,
                context: 4_096,
                gpu_plan: Plan { weights: 16_000_000_000, keys_and_values: 0, workspace: 0 },
                cpu_bytes: 17_000_000_000,
                fits: Vec::new(),
            }));
        },
        &["error no_cuda_device", "error model_does_not_fit", "note cpu_quota"],
    );
}

#[test]
fn records_are_read_back_as_they_were_written() {
    let text = serde_json::to_string(&h200()).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), h200());
}
