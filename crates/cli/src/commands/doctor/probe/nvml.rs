//! The driver's management library: what a card is doing, how it is connected, and who uses it.

use anyhow::Result;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, ComputeMode, EccCounter, MemoryError, TemperatureSensor, TemperatureThreshold,
};
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml as Library};

use super::super::facts::{Ecc, GpuMemory, GpuProcess, Nvml, NvmlGpu, Pcie, Power};
use super::os;
use crate::output::CliError;

pub(super) fn probe() -> Result<Nvml> {
    let library = Library::init().map_err(|error| CliError::Device(error.to_string()))?;
    let count = library.device_count().map_err(|error| CliError::Device(error.to_string()))?;
    let gpus =
        (0..count).filter_map(|index| Some(gpu(index, &library.device_by_index(index).ok()?)));
    Ok(Nvml { driver_version: library.sys_driver_version().ok(), gpus: gpus.collect() })
}

fn gpu(index: u32, device: &Device) -> NvmlGpu {
    let memory = device.memory_info().ok();
    let mut processes = device.running_compute_processes().unwrap_or_default();
    processes.extend(device.running_graphics_processes().unwrap_or_default());
    processes.sort_by_key(|process| process.pid);
    processes.dedup_by_key(|process| process.pid);
    NvmlGpu {
        index,
        name: device.name().ok(),
        uuid: device.uuid().ok(),
        pci_bus_id: device.pci_info().ok().map(|info| info.bus_id),
        memory: memory.map(|m| GpuMemory { total: m.total, used: m.used, free: m.free }),
        pcie: Pcie {
            generation: device.current_pcie_link_gen().ok(),
            generation_max: device.max_pcie_link_gen().ok(),
            width: device.current_pcie_link_width().ok(),
            width_max: device.max_pcie_link_width().ok(),
        },
        persistence: device.is_in_persistent_mode().ok(),
        ecc: ecc(device),
        throttling: device.current_throttle_reasons().map(throttling).unwrap_or_default(),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
        slowdown_c: device.temperature_threshold(TemperatureThreshold::Slowdown).ok(),
        power: Power {
            usage_w: watts(device.power_usage().ok()),
            cap_w: watts(device.enforced_power_limit().ok()),
            default_cap_w: watts(device.power_management_limit_default().ok()),
        },
        sm_clock_mhz: device.clock_info(Clock::SM).ok(),
        sm_clock_max_mhz: device.max_clock_info(Clock::SM).ok(),
        performance_state: device.performance_state().ok().map(|state| state.as_c()),
        utilization_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
        compute_mode: device.compute_mode().ok().map(|mode| compute_mode(&mode).to_owned()),
        mig: device.mig_mode().ok().map(|mode| mode.current != 0),
        processes: processes.iter().map(process).collect(),
    }
}

fn watts(milliwatts: Option<u32>) -> Option<u32> {
    milliwatts.map(|milliwatts| (milliwatts + 500) / 1000)
}

fn ecc(device: &Device) -> Ecc {
    /// `NVML_FI_DEV_REMAPPED_PENDING` and `_FAILURE` of NVIDIA's `nvml.h`: rows of memory since Ampere, pages before.
    const REMAPPED: [FieldId; 2] = [FieldId(144), FieldId(145)];
    let errors = |counter| device.total_ecc_errors(MemoryError::Uncorrected, counter).ok();
    let remapped = device.field_values_for(&REMAPPED).unwrap_or_default();
    let remapped = |at: usize| match remapped.get(at)?.as_ref().ok()?.value.as_ref().ok()? {
        SampleValue::U32(value) => Some(*value != 0),
        SampleValue::U64(value) => Some(*value != 0),
        _ => None,
    };
    Ecc {
        enabled: device.is_ecc_enabled().ok().map(|mode| mode.currently_enabled),
        uncorrected: errors(EccCounter::Volatile),
        uncorrected_ever: errors(EccCounter::Aggregate),
        repair_pending: remapped(0).or_else(|| device.are_pages_pending_retired().ok()),
        repair_failed: remapped(1),
    }
}

/// All but those of a card at rest, or that somebody has set.
fn throttling(reasons: ThrottleReasons) -> Vec<String> {
    let known = [
        (ThrottleReasons::SW_POWER_CAP, "power cap"),
        (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "software thermal slowdown"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hardware thermal slowdown"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
        (ThrottleReasons::SYNC_BOOST, "sync boost"),
    ];
    let held = known.into_iter().filter(|(reason, _)| reasons.contains(*reason));
    held.map(|(_, name)| name.to_owned()).collect()
}

fn compute_mode(mode: &ComputeMode) -> &'static str {
    match mode {
        ComputeMode::Default => "default",
        ComputeMode::ExclusiveThread => "exclusive thread",
        ComputeMode::Prohibited => "prohibited",
        ComputeMode::ExclusiveProcess => "exclusive process",
    }
}

fn process(process: &ProcessInfo) -> GpuProcess {
    let pid = process.pid;
    GpuProcess {
        pid,
        // The driver's numbers are the host's: in a container's own count they are somebody else's.
        name: in_the_hosts_count().then(|| os::text(format!("/proc/{pid}/comm"))).flatten(),
        bytes: match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
    }
}

/// Whether processes are counted here as on the host: the first namespace has a fixed number, `PROC_PID_INIT_INO` of Linux.
fn in_the_hosts_count() -> bool {
    let link = std::fs::read_link("/proc/self/ns/pid");
    link.is_ok_and(|link| link.to_string_lossy() == "pid:[4026531836]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_at_rest_is_not_throttled() {
        let rest = ThrottleReasons::GPU_IDLE | ThrottleReasons::APPLICATIONS_CLOCKS_SETTING;
        assert!(throttling(rest).is_empty());
        let hot = ThrottleReasons::HW_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        assert_eq!(throttling(hot), ["hardware slowdown", "hardware thermal slowdown"]);
    }
}
