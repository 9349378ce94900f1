//! The names that a pickle may use. A listed one has a meaning here; any other is a name and nothing more: there is no way
//! from a name in a file to code.

use tch::Kind;

/// The type of stored numbers.
#[derive(Debug)]
pub(super) struct Element {
    /// As PyTorch calls it.
    pub(super) name: &'static str,
    /// None of a type that is not read.
    pub(super) kind: Option<Kind>,
    /// Bytes of one.
    pub(super) width: u64,
}

/// The meaning of a name.
#[derive(Clone, Copy)]
pub(super) enum Class {
    OrderedDict,
    Size,
    /// A storage of these numbers.
    Storage(&'static Element),
    Dtype(&'static Element),
    /// `torch.Tensor` or `Parameter`, as the type of what `FromType` makes.
    Tensor,
    /// A function that gives a tensor from a storage, an offset, sizes and strides.
    RebuildTensor,
    /// As [`Self::RebuildTensor`], with the type of the numbers after them.
    RebuildTyped,
    /// A function that gives back the tensor that is its first argument.
    RebuildParameter,
    /// A function that calls its first argument with its third one.
    RebuildFromType,
    /// Makes values that hold no weights: numbers, bytes, sets.
    Plain,
}

const fn read(name: &'static str, kind: Kind, width: u64) -> Element {
    Element {
        name,
        kind: Some(kind),
        width,
    }
}

const fn not_read(name: &'static str, width: u64) -> Element {
    Element {
        name,
        kind: None,
        width,
    }
}

/// Types of numbers by the names of their storages and of themselves.
static ELEMENTS: [(&str, &[&str], Element); 26] = [
    (
        "DoubleStorage",
        &["float64", "double"],
        read("float64", Kind::Double, 8),
    ),
    (
        "FloatStorage",
        &["float32", "float"],
        read("float32", Kind::Float, 4),
    ),
    (
        "HalfStorage",
        &["float16", "half"],
        read("float16", Kind::Half, 2),
    ),
    (
        "BFloat16Storage",
        &["bfloat16"],
        read("bfloat16", Kind::BFloat16, 2),
    ),
    (
        "LongStorage",
        &["int64", "long"],
        read("int64", Kind::Int64, 8),
    ),
    ("IntStorage", &["int32", "int"], read("int32", Kind::Int, 4)),
    (
        "ShortStorage",
        &["int16", "short"],
        read("int16", Kind::Int16, 2),
    ),
    ("CharStorage", &["int8"], read("int8", Kind::Int8, 1)),
    ("ByteStorage", &["uint8"], read("uint8", Kind::Uint8, 1)),
    ("BoolStorage", &["bool"], read("bool", Kind::Bool, 1)),
    ("UntypedStorage", &[], read("bytes", Kind::Uint8, 1)),
    (
        "ComplexDoubleStorage",
        &["complex128", "cdouble"],
        not_read("complex128", 16),
    ),
    (
        "ComplexFloatStorage",
        &["complex64", "cfloat"],
        not_read("complex64", 8),
    ),
    ("", &["complex32", "chalf"], not_read("complex32", 4)),
    (
        "QInt32Storage",
        &["qint32"],
        not_read("quantised qint32", 4),
    ),
    ("QInt8Storage", &["qint8"], not_read("quantised qint8", 1)),
    (
        "QUInt8Storage",
        &["quint8"],
        not_read("quantised quint8", 1),
    ),
    (
        "QUInt4x2Storage",
        &["quint4x2"],
        not_read("quantised quint4x2", 1),
    ),
    (
        "QUInt2x4Storage",
        &["quint2x4"],
        not_read("quantised quint2x4", 1),
    ),
    ("", &["uint16"], not_read("uint16", 2)),
    ("", &["uint32"], not_read("uint32", 4)),
    ("", &["uint64"], not_read("uint64", 8)),
    ("", &["float8_e4m3fn"], not_read("float8_e4m3fn", 1)),
    ("", &["float8_e5m2"], not_read("float8_e5m2", 1)),
    ("", &["float8_e4m3fnuz"], not_read("float8_e4m3fnuz", 1)),
    ("", &["float8_e5m2fnuz"], not_read("float8_e5m2fnuz", 1)),
];

/// Types of Python's own that hold neither weights nor code.
const BUILTINS: [&str; 15] = [
    "set",
    "frozenset",
    "list",
    "dict",
    "tuple",
    "int",
    "long",
    "float",
    "complex",
    "bool",
    "str",
    "unicode",
    "bytes",
    "bytearray",
    "object",
];

/// Modules whose functions act on the machine. Nothing of them would run here either; a file that names one was made to run
/// something where it is opened by others, and its owner should know.
const ACTING: [&str; 48] = [
    "os",
    "posix",
    "nt",
    "subprocess",
    "commands",
    "pty",
    "sys",
    "builtins",
    "__builtin__",
    "importlib",
    "imp",
    "runpy",
    "code",
    "codeop",
    "socket",
    "shutil",
    "webbrowser",
    "ctypes",
    "_ctypes",
    "pickle",
    "_pickle",
    "cPickle",
    "marshal",
    "timeit",
    "pdb",
    "bdb",
    "cProfile",
    "profile",
    "trace",
    "pydoc",
    "io",
    "_io",
    "urllib",
    "http",
    "requests",
    "httpx",
    "asyncio",
    "multiprocessing",
    "threading",
    "_thread",
    "operator",
    "_operator",
    "atexit",
    "pip",
    "ensurepip",
    "zipimport",
    "pkgutil",
    "dill",
];

/// The reason why a name of such a module is refused.
pub(super) const ACTS: &str = "which acts on the machine";

/// The class of a name; `None` of one that is not listed.
pub(super) fn class(module: &str, name: &str) -> Option<Class> {
    let storage = |name: &str| {
        let mut elements = ELEMENTS.iter();
        elements.find(|(storage, _, _)| !storage.is_empty() && *storage == name)
    };
    let dtype = || ELEMENTS.iter().find(|(_, names, _)| names.contains(&name));
    Some(match (module, name) {
        ("collections", "OrderedDict") => Class::OrderedDict,
        ("torch", "Size") => Class::Size,
        ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => Class::Tensor,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Class::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v3") => Class::RebuildTyped,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Class::RebuildParameter
        }
        ("torch._tensor", "_rebuild_from_type_v2") => Class::RebuildFromType,
        ("_codecs", "encode")
        | ("numpy", "dtype")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Class::Plain,
        ("builtins" | "__builtin__", _) if BUILTINS.contains(&name) => Class::Plain,
        ("torch" | "torch.storage" | "torch.cuda", _) if storage(name).is_some() => {
            Class::Storage(&storage(name)?.2)
        }
        ("torch", _) => Class::Dtype(&dtype()?.2),
        _ => return None,
    })
}

/// `true` of a module whose functions act on the machine.
pub(super) fn acts(module: &str) -> bool {
    let first = module.split('.').next().unwrap_or_default();
    ACTING.contains(&first) || ["torch.hub", "torch.jit"].contains(&module)
}
