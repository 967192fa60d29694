//! Judging recorded machines. `h200.json` was recorded on one with an H200 (`halfbyte doctor --json`, the facts of it); the others are
//! made from it, by what such machines show.

use expect_test::{Expect, expect};

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

/// The whole report.
#[track_caller]
fn check_report(facts: &Facts, expected: Expect) {
    expected.assert_eq(&text::report(facts, &judge(facts)));
}

/// The findings: severity, id, words, fix.
#[track_caller]
fn check(change: impl FnOnce(&mut Facts), expected: Expect) {
    let mut facts = h200();
    change(&mut facts);
    let lines = judge(&facts).into_iter().map(|finding| {
        assert!(!finding.evidence.is_empty() && !finding.fix.is_empty(), "{finding:?}");
        format!(
            "{} {}: {}\n  -> {}\n",
            finding.severity.name(),
            finding.id,
            finding.what,
            finding.fix
        )
    });
    expected.assert_eq(&lines.collect::<String>());
}

#[test]
fn a_machine_as_it_should_be() {
    let mut facts = h200();
    mixtral(&mut facts, 32_768);
    facts.storage = storage("ext4", 3_000_000_000);
    check_report(
        &facts,
        expect![[r#"
        halfbyte: 0.1.0+5713dafac4cd for x86_64-unknown-linux-gnu
        cpu kernels: avx512-vnni
        cuda kernels: compute_80, sm_80, sm_86, sm_89, sm_90a, sm_100, compute_120, sm_120 (NVRTC 12.9.86)
        cpu: Intel(R) Xeon(R) Processor, 16 of 16 processors, avx2 fma f16c avx_vnni avx512f avx512bw avx512vl avx512_vnni amx_int8
        memory: 135.15 GB, 134.59 GB available, /dev/shm 137.44 GB, memlock unlimited
        system: Linux 6.18.44-fc-v657-gpu, docker (/.dockerenv)
          LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib
          NVIDIA_DRIVER_CAPABILITIES=compute,graphics,utility
          NVIDIA_VISIBLE_DEVICES=0
        driver: 580.159.04 in the kernel, open, CUDA 13.0
          loaded /usr/local/nvidia/lib64/libcuda.so.580.159.04
          /usr/local/nvidia/lib64/libcuda.so.1 580.159.04
          /usr/local/nvidia/lib64/libnvidia-ml.so.1 580.159.04
          /usr/local/nvidia/lib64/libnvidia-ptxjitcompiler.so.1 580.159.04
          /usr/local/cuda/compat/libcuda.so.1 580.95.05, of a compatibility package
          /usr/local/cuda/compat/libnvidia-ptxjitcompiler.so.1 580.95.05, of a compatibility package
          /dev/nvidia-caps/nvidia-cap1 /dev/nvidia-caps/nvidia-cap2 /dev/nvidia-uvm /dev/nvidia-uvm-tools /dev/nvidia0 /dev/nvidiactl
        cuda:0: NVIDIA H200, compute capability 9.0, 150.11 GB (149.56 GB free), kernels for sm_90a
          PCIe generation 5 x16 (at most 5 x16), persistence on, ECC on
          P0, 38 C, 80 of 700 W, 345 of 1980 MHz, 0 % busy
        storage: /models/mistralai/Mixtral-8x7B-Instruct-v0.1 (ext4 of store:/vol1)
          3 files, 24.48 GB, of which 1.20 GB in the page cache
          3.00 GB/s past the page cache (3.00 GB in 1.00 s)
        model: mistralai/Mixtral-8x7B-Instruct-v0.1 (/models/mistralai/Mixtral-8x7B-Instruct-v0.1), nf4
          on a GPU 29.05 GB for 32768 tokens of context, on the CPU 33.40 GB
        findings:
        note: mistralai/Mixtral-8x7B-Instruct-v0.1 fits
            weights 24.22 GB + keys and values 4.29 GB (32768 tokens) + workspace 540.0 MB = 29.05 GB
            cuda:0 (NVIDIA H200): 149.56 GB are free; fits with 32768 tokens of context
    "#]],
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
        expect![[r#"
        halfbyte: 0.1.0+5713dafac4cd for x86_64-unknown-linux-gnu
        cpu kernels: avx512-vnni
        cuda kernels: compute_80, sm_80, sm_86, sm_89, sm_90a, sm_100, compute_120, sm_120 (NVRTC 12.9.86)
        cpu: Intel(R) Xeon(R) Processor, 16 of 16 processors, avx2 fma f16c avx_vnni avx512f avx512bw avx512vl avx512_vnni amx_int8
        memory: 135.15 GB, 134.59 GB available, /dev/shm 137.44 GB, memlock unlimited
        system: Linux 6.18.44-fc-v657-gpu, docker (/.dockerenv)
          LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib
          NVIDIA_DRIVER_CAPABILITIES=compute,graphics,utility
          NVIDIA_VISIBLE_DEVICES=0
        driver: 580.159.04 in the kernel, open
        gpus: none
        findings:
        error: the host has an NVIDIA GPU, but this container was started without it
            PCI 0000:01:00.0 is 10de:2b85 (nvidia)
            /proc/driver/nvidia/version: the kernel has driver 580.159.04
            there is no /dev/nvidia0
            this is docker (/.dockerenv)
          -> start the container with `--gpus all` (NVIDIA's container toolkit), or ask the provider for a container with a GPU
        note: the driver's management library does not answer: link, ECC, throttling and the users of memory are not known
            a libloading error occurred: libnvidia-ml.so.1: cannot open shared object file
          -> in a container, add `utility` to NVIDIA_DRIVER_CAPABILITIES
    "#]],
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
    check(
        bare,
        expect![[r#"
        note no_gpu: no NVIDIA GPU is visible here: models run on the CPU
          -> nothing, if there is none; in a container, start it with `--gpus all`
    "#]],
    );
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
        expect![[r#"
            error no_device_nodes: there is an NVIDIA GPU, but its driver is not loaded
              -> install NVIDIA's driver (525 or later), or `modprobe nvidia`
            note nvml_missing: the driver's management library does not answer: link, ECC, throttling and the users of memory are not known
              -> in a container, add `utility` to NVIDIA_DRIVER_CAPABILITIES
        "#]],
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
        expect![[r#"
            error no_driver_library: a GPU is visible, but the driver's library libcuda.so.1 is not here
              -> set NVIDIA_DRIVER_CAPABILITIES=compute,utility for the container
            note nvml_missing: the driver's management library does not answer: link, ECC, throttling and the users of memory are not known
              -> in a container, add `utility` to NVIDIA_DRIVER_CAPABILITIES
        "#]],
    );
    // Single devices were given to the container.
    check(
        |facts| {
            let files = found(&mut facts.driver);
            files.nodes.retain(|node| node.path != "/dev/nvidia-uvm");
            files.nodes[0].problem = Some("Operation not permitted (os error 1)".to_owned());
        },
        expect![[r#"
            error device_nodes_unusable: device nodes of the driver cannot be used
              -> start the container with `--gpus all` rather than with single devices; on a host, run `nvidia-modprobe -u -c=0` and see that this user may open them
        "#]],
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
        expect![[r#"
            error driver_mismatch: the driver's library and the kernel's module are of different versions
              -> reboot the host (or reload the module) after an update of the driver, and start the container again
            note nvml_missing: the driver's management library does not answer: link, ECC, throttling and the users of memory are not known
              -> in a container, add `utility` to NVIDIA_DRIVER_CAPABILITIES
        "#]],
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
        expect![[r#"
            error driver_mismatch: a CUDA compatibility library is loaded that does not serve this card or driver
              -> take the compatibility folder out of LD_LIBRARY_PATH and of /etc/ld.so.conf.d: halfbyte needs none
        "#]],
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
        expect![[r#"
            error driver_unusable: the driver cannot be used
              -> update NVIDIA's driver on the host to 525 or later
        "#]],
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
    check(
        tomorrow((12, 4)),
        expect![[r#"
        error driver_too_old_for_ptx: the driver is too old to compile the kernels for cuda:0 (NVIDIA X100)
          -> update NVIDIA's driver on the host
    "#]],
    );
    check(
        tomorrow((13, 2)),
        expect![[r#"
        note kernels_from_ptx: the driver compiles the kernels for cuda:0 (NVIDIA X100) when they are first used, which takes some seconds
          -> nothing; a newer release may have machine code for this card
    "#]],
    );
}

#[test]
fn a_driver_that_hangs_or_falls() {
    check(
        |facts| {
            facts.cuda = Probed::TimedOut(20);
            facts.nvml = Probed::Died("signal: 11 (SIGSEGV)".to_owned());
        },
        expect![[r#"
            error no_answer: looking at the driver had no answer within 20 s
              -> look for `NVRM` and `Xid` in the host's kernel log, and reset the GPU or reboot
            error probe_died: looking at the driver's management library ended the process that did it
              -> look for `NVRM` and `Xid` in the host's kernel log, and reset the GPU or reboot
        "#]],
    );
    check(
        |facts| {
            facts.storage = Some(Probed::TimedOut(20));
            facts.model = Some(Probed::TimedOut(20));
        },
        expect![[r#"
            error no_answer: looking at the storage of models had no answer within 20 s
              -> see that the file system which holds the model answers: `ls` in its folder
            error no_answer: looking at the model had no answer within 20 s
              -> see that the file system which holds the model answers: `ls` in its folder
        "#]],
    );
    check(
        |facts| {
            facts.storage = Some(Probed::Failed("no such model".to_owned()));
            facts.model = Some(Probed::Failed("no such model".to_owned()));
        },
        expect![[r#"
            error model_unreadable: the model cannot be read
              -> name a model that is here; MODEL in `halfbyte --help` says where it is looked for
        "#]],
    );
}

#[test]
fn a_v100_is_too_old() {
    let v100 = |facts: &mut Facts| {
        facts.card("Tesla V100-SXM2-16GB", (7, 0), 16_900_000_000, None);
        facts.device().no_kernels = Some("no kernels for compute capability 7.0".to_owned());
    };
    check(
        v100,
        expect![[r#"
        error card_too_old: cuda:0 (Tesla V100-SXM2-16GB) is older than any card that halfbyte runs on
          -> take a card of compute capability 8.0 or later, or run on the CPU with `--device cpu`
    "#]],
    );
    // Beside a card that serves, it is less bad.
    check(
        |facts| {
            let mut old = facts.device().clone();
            (old.ordinal, old.compute_capability, old.uuid) = (1, (7, 0), "GPU-1".to_owned());
            old.name = "Tesla V100-SXM2-16GB".to_owned();
            found(&mut facts.cuda).devices.push(old);
        },
        expect![[r#"
            warning card_too_old: cuda:1 (Tesla V100-SXM2-16GB) is older than any card that halfbyte runs on
              -> take a card of compute capability 8.0 or later, or run on the CPU with `--device cpu`
        "#]],
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
        expect![[r#"
            warning throttled: cuda:0 (NVIDIA A40) is too hot, and slows down
              -> see to its cooling; on a rented machine take another
            warning narrow_link: cuda:0 (NVIDIA A40) is connected by 4 of 16 PCIe lanes: loading takes longer
              -> put the card into a slot with all lanes, or see that it sits tight; on a rented machine take another
            note no_persistence: cuda:0 (NVIDIA A40) is started anew for every program that comes alone, which takes a second or more
              -> run `nvidia-smi -pm 1`, or nvidia-persistenced, on the host
        "#]],
    );
    check(
        |facts| {
            let gpu = facts.gpu();
            (gpu.power.cap_w, gpu.power.default_cap_w) = (Some(300), Some(700));
            gpu.mig = Some(true);
            gpu.compute_mode = Some("exclusive process".to_owned());
        },
        expect![[r#"
            warning low_power_cap: the power cap of cuda:0 (NVIDIA H200) was lowered
              -> run `nvidia-smi -pl 700` on the host, if speed matters more
            note mig: cuda:0 (NVIDIA H200) is split into instances (MIG): each has a part of its memory and speed
              -> nothing; CUDA_VISIBLE_DEVICES chooses the instance
            note compute_exclusive: cuda:0 (NVIDIA H200) serves one program at a time
              -> nothing, if that is meant; `nvidia-smi -c 0` on the host ends it
        "#]],
    );
    check(
        |facts| {
            facts.gpu().throttling = vec!["power cap".to_owned()];
            facts.gpu().compute_mode = Some("prohibited".to_owned());
            facts.device().error = failed(46, "opening cuda:0: CUDA_ERROR_DEVICE_UNAVAILABLE");
        },
        expect![[r#"
            error card_unusable: cuda:0 (NVIDIA H200) cannot be opened
              -> do what the driver's message says; if it says nothing, look for `Xid` in the host's kernel log
            error compute_prohibited: cuda:0 (NVIDIA H200) is closed to computing
              -> run `nvidia-smi -c 0` on the host
            note throttled: cuda:0 (NVIDIA H200) works at its power cap
              -> nothing; decoding is bound by memory, not by the clock
        "#]],
    );
}

#[test]
fn memory_that_is_faulty() {
    check(
        |facts| facts.gpu().ecc.uncorrected = Some(3),
        expect![[r#"
        error memory_errors: cuda:0 (NVIDIA H200) has lost data in its memory since the driver started
          -> run `nvidia-smi -r` on the host; if it comes again, take another card
    "#]],
    );
    check(
        |facts| facts.gpu().ecc.repair_pending = Some(true),
        expect![[r#"
        warning memory_repair_pending: the memory of cuda:0 (NVIDIA H200) has a fault that a reset will mend
          -> end all programs on it, and run `nvidia-smi -r` on the host
    "#]],
    );
    check(
        |facts| facts.gpu().ecc.repair_failed = Some(true),
        expect![[r#"
        error memory_faulty: the memory of cuda:0 (NVIDIA H200) is faulty and cannot be mended
          -> take another card; this one goes back to its vendor
    "#]],
    );
    // What was dealt with long ago is no finding.
    check(|facts| facts.gpu().ecc.uncorrected_ever = Some(3), expect![[""]]);
}

#[test]
fn gpus_that_are_hidden_or_taken() {
    check(
        |facts| {
            found(&mut facts.cuda).devices.clear();
            facts.system().environment.insert("CUDA_VISIBLE_DEVICES".to_owned(), String::new());
        },
        expect![[r#"
            error gpus_hidden: 0 of 1 GPUs are visible to programs
              -> unset CUDA_VISIBLE_DEVICES, if that is not meant
        "#]],
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
        expect![[r#"
            error model_does_not_fit: mistralai/Mixtral-8x7B-Instruct-v0.1 does not fit into the memory of any GPU here
              -> take a GPU with more memory, or free what others hold of it
            note memory_taken: others hold memory of cuda:0 (NVIDIA H200)
              -> nothing, if those programs are meant; else end them
        "#]],
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
        expect![[r#"
            warning context_is_cut: mistralai/Mixtral-8x7B-Instruct-v0.1 fits with 1552 tokens of context, not with the 32768 it would take
              -> take --kv fp8, ask for less with --context, or free memory of the GPU
            warning slow_storage: a cold start waits long for the storage of the model
              -> put the model on a local disk (NVMe) of the machine, or into the image
            note cache_limited: the page cache of this container cannot hold the model: every start reads it from the storage
              -> give the container more memory, if it starts often
        "#]],
    );
    check(
        |facts| facts.storage = storage("fuse.juicefs", 2_000_000_000),
        expect![[r#"
        note network_storage: the model lies on a network volume, whose speed varies with what others do
          -> put the model on a local disk (NVMe) of the machine, or into the image
    "#]],
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
        expect![[r#"
            error no_cuda_device: a GPU is visible, but the driver shows none
              -> see `nvidia-smi -L` on the host: with MIG, an instance has to be made and given to the container
            error model_does_not_fit: qwen does not fit into memory with all of its context
              -> ask for less with --context, or take a machine with more memory
            note cpu_quota: this container may use 2.5 of 16 processors
              -> nothing, if that is meant
        "#]],
    );
}

#[test]
fn records_are_read_back_as_they_were_written() {
    let text = serde_json::to_string(&h200()).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), h200());
}
