//! The driver layer on a real card; without a driver, or a card, these tests pass at once.

#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::time::Instant;

use cuda::CudaError;
use cuda::driver::{Context, DeviceMemory, Event, Launch, Module, Pinned, Stream, devices};
use cuda::{images, params};

/// `data[i] += step` for i below `count`.
const ADD: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 data, .param .u32 count, .param .u32 step)
{
    .reg .pred %p;
    .reg .b32 %r<7>;
    .reg .b64 %d<3>;
    ld.param.u64 %d0, [data];
    ld.param.u32 %r0, [count];
    ld.param.u32 %r1, [step];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p, %r5, %r0;
    @%p bra done;
    mul.wide.u32 %d1, %r5, 4;
    add.u64 %d2, %d0, %d1;
    ld.global.u32 %r6, [%d2];
    add.u32 %r6, %r6, %r1;
    st.global.u32 [%d2], %r6;
done:
    ret;
}
";

const COUNT: u32 = 100_003;

/// A thread for each number. The kernel does not wait for the one before it, so it must not start early.
const LAUNCH: Launch = Launch {
    grid: [COUNT.div_ceil(256), 1, 1],
    block: [256, 1, 1],
    shared: 0,
    dependent: false,
    cluster: None,
};

/// The first card.
fn card() -> Option<Context> {
    let first = devices().ok()?.into_iter().next()?;
    Some(Context::new(first.ordinal).unwrap())
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
}

#[test]
fn what_a_kernel_writes_comes_back_also_from_a_graph() {
    let Some(context) = card() else { return };
    let bytes = 4 * COUNT as usize;
    let memory = DeviceMemory::alloc(&context, bytes).unwrap();
    let mut host = Pinned::alloc(&context, bytes).unwrap();
    for (bytes, i) in host.chunks_exact_mut(4).zip(0..COUNT) {
        bytes.copy_from_slice(&i.to_le_bytes());
    }
    let stream = Stream::new(&context).unwrap();
    let add = Module::load(&context, ADD.as_bytes()).unwrap().function("add").unwrap();
    let data = memory.ptr();
    // SAFETY: the memory holds COUNT numbers and outlives the work; the kernel takes these parameters.
    let graph = unsafe {
        stream.copy_to_device(data, &host).unwrap();
        stream.launch(&add, LAUNCH, params![&data, &COUNT, &3_u32]).unwrap();
        stream.begin_capture().unwrap();
        stream.launch(&add, LAUNCH, params![&data, &COUNT, &5_u32]).unwrap();
        stream.launch(&add, LAUNCH, params![&data, &COUNT, &5_u32]).unwrap();
        stream.end_capture().unwrap().instantiate().unwrap()
    };
    let (start, end) = (Event::new(&context).unwrap(), Event::new(&context).unwrap());
    graph.upload(&stream).unwrap();
    start.record(&stream).unwrap();
    for _ in 0..100 {
        graph.launch(&stream).unwrap();
    }
    end.record(&stream).unwrap();
    end.synchronize().unwrap();
    assert!(end.query().unwrap());
    println!("{:.2} us for a graph of two kernels", start.elapsed_ms(&end).unwrap() * 10.0);
    // Another thread binds the context by itself.
    let host = std::thread::spawn(move || {
        // SAFETY: as above; `host` is left alone until the stream is done.
        unsafe { stream.copy_to_host(&mut host, data).unwrap() };
        stream.synchronize().unwrap();
        host
    });
    let host = host.join().unwrap();
    assert!(numbers(&host).zip(0..COUNT).all(|(found, i)| found == i + 3 + 1000));
}

#[test]
fn launches_take_attributes() {
    let Some(context) = card() else { return };
    let memory = DeviceMemory::alloc(&context, 4 * COUNT as usize).unwrap();
    let stream = Stream::new(&context).unwrap();
    let add = Module::load(&context, ADD.as_bytes()).unwrap().function("add").unwrap();
    let is_hopper = context.info().compute_capability >= (9, 0);
    let launch = Launch {
        grid: [COUNT.div_ceil(256).next_multiple_of(2), 1, 1],
        dependent: true,
        cluster: is_hopper.then_some([2, 1, 1]),
        ..LAUNCH
    };
    let data = memory.ptr();
    // SAFETY: the memory holds COUNT numbers and outlives the work; the kernel takes these parameters.
    unsafe {
        stream.memset(data, 0, memory.len()).unwrap();
        stream.launch(&add, launch, params![&data, &COUNT, &1_u32]).unwrap();
    }
    stream.synchronize().unwrap();
    let mut host = vec![0; memory.len()];
    // SAFETY: as above; `host` is left alone until the stream is done.
    unsafe { stream.copy_to_host(&mut host, data).unwrap() };
    stream.synchronize().unwrap();
    assert!(numbers(&host).all(|found| found == 1));
}

#[test]
fn kernels_reach_pinned_memory_in_the_order_of_events() {
    let Some(context) = card() else { return };
    let host = Pinned::alloc(&context, 4096).unwrap();
    let (stream, data) = (Stream::new(&context).unwrap(), host.device_ptr().unwrap());
    let other = Stream::new(&context).unwrap();
    let filled = Event::new(&context).unwrap();
    let add = Module::load(&context, ADD.as_bytes()).unwrap().function("add").unwrap();
    // SAFETY: 1024 numbers that outlive the work; the kernel takes these parameters.
    unsafe {
        other.memset(data, 0x11, 4096).unwrap();
        filled.record(&other).unwrap();
        stream.wait_event(&filled).unwrap();
        stream.launch(&add, LAUNCH, params![&data, &1024_u32, &1_u32]).unwrap();
    }
    stream.synchronize().unwrap();
    assert!(numbers(&host).all(|found| found == 0x1111_1112));
}

#[test]
fn refusals_say_what_was_tried() {
    let Some(context) = card() else { return };
    let check = |error: CudaError, parts: &[&str]| {
        let text = error.to_string();
        println!("{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let broken = ADD.replace("add.u64", "ad.u64");
    let error = Module::load(&context, broken.as_bytes()).unwrap_err();
    check(error, &["bytes of kernels on cuda:0: CUDA_ERROR_INVALID_PTX", "the compiler says"]);
    let error = Module::load(&context, b"no image").unwrap_err();
    check(error, &["loading 8 bytes of kernels"]);
    let module = Module::load(&context, ADD.as_bytes()).unwrap();
    let error = module.function("subtract").unwrap_err();
    check(error, &["the kernel subtract", "CUDA_ERROR_NOT_FOUND"]);
    let add = module.function("add").unwrap();
    let attributes = add.attributes().unwrap();
    assert!(attributes.registers > 0 && attributes.local_bytes == 0, "{attributes:?}");
    assert!(add.blocks_per_multiprocessor(256, 0).unwrap() >= 4);
    add.set_max_shared(context.info().max_shared_per_block_optin).unwrap();
    check(add.set_max_shared(1 << 30).unwrap_err(), &["giving add 1073741824 bytes"]);
    let error = DeviceMemory::alloc(&context, 1 << 50).unwrap_err();
    assert!(error.is_out_of_memory());
    check(error, &["allocating 1125899906842624 bytes on cuda:0: CUDA_ERROR_OUT_OF_MEMORY"]);
    let stream = Stream::new(&context).unwrap();
    check(stream.end_capture().unwrap_err(), &["ending the record of cuda:0"]);
    check(Context::new(99).unwrap_err(), &["there is no cuda:99"]);
    let (free, total) = context.mem_info().unwrap();
    assert!(0 < free && free <= total && total <= context.info().total_memory);
}

#[test]
fn every_image_that_this_card_runs_loads() {
    let Some(context) = card() else { return };
    let capability = context.info().compute_capability;
    for image in images::all().iter().filter(|image| image.target().runs_on(capability)) {
        let start = Instant::now();
        let bytes = image.bytes().unwrap();
        let inflated = start.elapsed();
        Module::load(&context, &bytes).unwrap();
        let (file, target, loaded) = (image.file(), image.target(), start.elapsed());
        println!(
            "{file} {target}: {} bytes, inflated in {inflated:.1?}, loaded in {loaded:.1?}",
            bytes.len()
        );
    }
}

#[test]
fn handles_free_what_they_hold() {
    let Some(context) = card() else { return };
    let make = || {
        let memory = DeviceMemory::alloc(&context, 256 << 20).unwrap();
        let pinned = Pinned::alloc(&context, 1 << 20).unwrap();
        let stream = Stream::new(&context).unwrap();
        let event = Event::new(&context).unwrap();
        let module = Module::load(&context, ADD.as_bytes()).unwrap();
        event.record(&stream).unwrap();
        drop((memory, pinned, stream, event, module));
    };
    make();
    let (before, _) = context.mem_info().unwrap();
    (0..1000).for_each(|_| make());
    let (after, _) = context.mem_info().unwrap();
    // Other tests hold memory meanwhile; 1000 pieces are more than any card has.
    assert!(before.abs_diff(after) < 1 << 30, "{before} {after}");
}
