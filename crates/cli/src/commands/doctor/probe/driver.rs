//! What NVIDIA's driver shows in files: nodes, the kernel's module, libraries. The driver itself is not called.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use super::super::facts::{DriverFiles, KernelModule, LibraryFile, Node, PciGpu};
use super::os;

/// The driver, its management, and its compiler of PTX.
const LIBRARIES: [&str; 3] = ["libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1"];

/// Where a loader looks on the distributions that there are, and where container runtimes mount the driver.
const FOLDERS: [&str; 9] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
    "/usr/local/cuda/compat",
];

pub(super) fn probe() -> DriverFiles {
    let root = Path::new("/");
    DriverFiles {
        module: module(root),
        nodes: nodes(root),
        pci: pci(root),
        libraries: libraries(root, env::var_os("LD_LIBRARY_PATH")),
    }
}

fn module(root: &Path) -> Option<KernelModule> {
    let file = "/proc/driver/nvidia/version";
    let found = os::text(root.join(&file[1..])).and_then(|text| {
        let version = module_version(&text)?;
        Some(KernelModule {
            version,
            open: text.contains("Open Kernel Module"),
            file: file.to_owned(),
        })
    });
    found.or_else(|| {
        let file = "/sys/module/nvidia/version";
        let version = os::text(root.join(&file[1..]))?;
        Some(KernelModule { version, open: false, file: file.to_owned() })
    })
}

/// The word like a version in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024`.
fn module_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
    line.split_whitespace().find(|word| is_version(word)).map(str::to_owned)
}

/// `550.54.14`: two or three numbers.
fn is_version(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    (2..=3).contains(&parts.len())
        && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

fn nodes(root: &Path) -> Vec<Node> {
    let dev = root.join("dev");
    let here = os::names(&dev).into_iter().filter(|name| name.starts_with("nvidia"));
    let mut names: Vec<String> = Vec::new();
    for name in here {
        if dev.join(&name).is_dir() {
            let inner = os::names(dev.join(&name)).into_iter();
            names.extend(inner.map(|inner| format!("{name}/{inner}")));
        } else {
            names.push(name);
        }
    }
    // WSL's way to the driver.
    names.extend(dev.join("dxg").exists().then(|| "dxg".to_owned()));
    names.iter().map(|name| node(&dev, name)).collect()
}

fn node(dev: &Path, name: &str) -> Node {
    let path = dev.join(name);
    // Those of MIG instances are for the owner of the instance alone.
    let problem = if name.contains('/') {
        None
    } else {
        OpenOptions::new().read(true).write(true).open(&path).err().map(|error| error.to_string())
    };
    Node { path: format!("/dev/{name}"), mode: mode(&path), problem }
}

#[cfg(unix)]
fn mode(path: &Path) -> String {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let Ok(found) = fs::metadata(path) else { return "unknown".to_owned() };
    let kind = if found.file_type().is_char_device() { 'c' } else { '-' };
    let bits: String = (0..9)
        .map(|at| if found.mode() >> (8 - at) & 1 == 1 { ['r', 'w', 'x'][at % 3] } else { '-' })
        .collect();
    // The kernel's packing of major and minor.
    let device = found.rdev();
    let major = device >> 8 & 0xfff;
    let minor = device & 0xff | device >> 12 & 0xfff00;
    format!("{kind}{bits} {}:{} {major},{minor}", found.uid(), found.gid())
}

#[cfg(not(unix))]
fn mode(_: &Path) -> String {
    "unknown".to_owned()
}

/// Display and 3-D controllers of NVIDIA's.
fn pci(root: &Path) -> Vec<PciGpu> {
    let devices = root.join("sys/bus/pci/devices");
    let gpu = |address: String| {
        let read = |name: &str| os::text(devices.join(&address).join(name));
        let is_gpu = read("class")?.starts_with("0x03") && read("vendor")? == "0x10de";
        let driver = fs::read_link(devices.join(&address).join("driver")).ok();
        let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let id = format!("10de:{}", read("device")?.trim_start_matches("0x"));
        is_gpu.then_some(PciGpu { address, id, driver })
    };
    os::names(&devices).into_iter().filter_map(gpu).collect()
}

fn libraries(root: &Path, search_path: Option<OsString>) -> Vec<LibraryFile> {
    let mounts = os::text(root.join("proc/self/mountinfo")).unwrap_or_default();
    let mounted: BTreeSet<String> =
        mounts.lines().filter_map(os::mount).map(|[at, ..]| at).collect();
    let mut found: Vec<LibraryFile> = Vec::new();
    let mut seen = BTreeSet::new();
    for folder in folders(root, search_path) {
        for name in LIBRARIES {
            let Ok(real) =
                root.join(folder.strip_prefix("/").unwrap_or(&folder)).join(name).canonicalize()
            else {
                continue;
            };
            // Two ways to one file are one library.
            if !seen.insert((name, real.clone())) {
                continue;
            }
            let path = folder.join(name).display().to_string();
            let end =
                real.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
            found.push(LibraryFile {
                name: name.to_owned(),
                version: end
                    .split_once(".so.")
                    .map(|(_, v)| v.to_owned())
                    .filter(|v| is_version(v)),
                mounted: mounted.contains(&path) || mounted.contains(&real.display().to_string()),
                compat: path.contains("/compat/"),
                path,
            });
        }
    }
    found
}

/// Folders in the loader's order: the variable, the configuration, the defaults.
fn folders(root: &Path, search_path: Option<OsString>) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = search_path.iter().flat_map(env::split_paths).collect();
    let configurations = root.join("etc/ld.so.conf.d");
    for name in os::names(&configurations).iter().filter(|name| name.ends_with(".conf")) {
        let text = os::text(configurations.join(name)).unwrap_or_default();
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with('/'));
        folders.extend(lines.map(PathBuf::from));
    }
    folders.extend(FOLDERS.iter().map(PathBuf::from));
    folders.retain(|folder| folder.is_absolute());
    folders
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn versions_of_the_kernel_module() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(module_version(text).as_deref(), expected)
        };
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\nGCC version:  gcc 12.2.0\n";
        check(closed, Some("550.54.14"));
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build  (archlinux-builder)\n";
        check(open, Some("570.86.10"));
        check("something else\n", None);
    }

    #[test]
    fn libraries_by_where_they_lead() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        write("usr/lib64/libcuda.so.535.183.01");
        write("usr/local/cuda/compat/libcuda.so.550.54.14");
        for (link, to) in [
            ("usr/lib64/libcuda.so.1", "libcuda.so.535.183.01"),
            ("usr/local/cuda/compat/libcuda.so.1", "libcuda.so.550.54.14"),
        ] {
            symlink(to, root.path().join(link)).unwrap();
        }
        // The variable names a folder that is looked into anyway.
        let found = libraries(root.path(), Some("/usr/local/cuda/compat:relative".into()));
        let found: Vec<_> = found
            .iter()
            .map(|l| (l.path.as_str(), l.version.as_deref().unwrap(), l.compat))
            .collect();
        assert_eq!(
            found,
            [
                ("/usr/local/cuda/compat/libcuda.so.1", "550.54.14", true),
                ("/usr/lib64/libcuda.so.1", "535.183.01", false)
            ]
        );
    }

    #[test]
    fn gpus_on_the_bus() {
        let root = tempfile::tempdir().unwrap();
        for (address, class, vendor) in [
            ("0000:00:02.0", "0x030000", "0x8086"),
            ("0000:01:00.0", "0x030200", "0x10de"),
            ("0000:01:00.1", "0x040300", "0x10de"),
        ] {
            let folder = root.path().join("sys/bus/pci/devices").join(address);
            fs::create_dir_all(&folder).unwrap();
            for (name, text) in [("class", class), ("vendor", vendor), ("device", "0x2335")] {
                fs::write(folder.join(name), format!("{text}\n")).unwrap();
            }
        }
        let expected =
            PciGpu { address: "0000:01:00.0".into(), id: "10de:2335".into(), driver: None };
        assert_eq!(pci(root.path()), [expected]);
    }
}
