//! Compiles the C++ files, and sets the rpath to the libtorch that torch-sys linked, so that the binary starts
//! without `LD_LIBRARY_PATH`.
use std::path::Path;

fn main() {
    const KERNELS: [&str; 3] = [
        "src/ops/cpu_memory.cpp",
        "src/ops/fused_adamw.cpp",
        "src/ops/matrix_products.cpp",
    ];
    println!("cargo:rerun-if-changed=build.rs");
    for kernel in KERNELS {
        println!("cargo:rerun-if-changed={kernel}");
    }
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else {
        return;
    };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(Path::new(&lib).with_file_name("include"))
        .files(KERNELS)
        .compile("preftune_kernels");
}
