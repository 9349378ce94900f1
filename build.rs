//! Compiles the one C++ file, and sets the rpath to the libtorch that torch-sys linked, so that the binary starts
//! without `LD_LIBRARY_PATH`.
use std::path::Path;

fn main() {
    const KERNEL: &str = "src/ops/fused_adamw.cpp";
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={KERNEL}");
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else {
        return;
    };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(Path::new(&lib).with_file_name("include"))
        .file(KERNEL)
        .compile("preftune_kernels");
}
