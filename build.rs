//! Compiles the C++ files, and says where programs look for libtorch: beside themselves and in the repository that they were
//! built in, by relative paths alone, so that they can be moved. The launcher looks in more places.
use std::path::Path;

fn main() {
    const KERNELS: [&str; 4] = [
        "src/ops/cpu_memory.cpp",
        "src/ops/fused_adamw.cpp",
        "src/ops/matrix_products.cpp",
        "src/ops/transfer.cpp",
    ];
    const DISTRIBUTED: &str = "src/distributed";
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={DISTRIBUTED}");
    for kernel in KERNELS {
        println!("cargo:rerun-if-changed={kernel}");
    }
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else {
        return;
    };
    // `bin/` beside `lib/`; `target/PROFILE/`; `target/PROFILE/deps/`.
    for folder in [
        "../lib",
        "../../.libtorch/torch/lib",
        "../../../.libtorch/torch/lib",
    ] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/{folder}");
    }
    // Tests and benches have no launcher, and a developer's libtorch may lie anywhere.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rustc-link-arg-benches=-Wl,-rpath,{lib}");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(Path::new(&lib).with_file_name("include"))
        .files(KERNELS)
        .compile("preftune_kernels");
    let include = Path::new(&lib).with_file_name("include");
    let mut distributed = cc::Build::new();
    distributed
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"));
    // libtorch was built with these: without them its headers declare nothing, or classes of another size.
    for name in [
        "USE_DISTRIBUTED",
        "USE_C10D_GLOO",
        "USE_RPC",
        "USE_TENSORPIPE",
    ] {
        distributed.define(name, None);
    }
    if !include.join("gloo/context.h").exists() {
        distributed.include(Path::new(DISTRIBUTED).join("declarations"));
    }
    distributed
        .file(Path::new(DISTRIBUTED).join("c10d.cpp"))
        .compile("preftune_c10d");
}
