//! PyTorch's own files of weights: every form that `torch.save` writes, bit by bit, and what is refused by name.

use std::fs;
use std::io::{Cursor, Write as _};
use std::path::Path;

use preftune::models::encoders::{DualEncoder, ImageEncoder};
use preftune::models::lm::LanguageModel;
use preftune::models::lora::LoraSet;
use preftune::models::recognize::recognize;
use preftune::models::weights::Checkpoint;
use serde_json::json;
use tch::{Device, Kind};
use zip::write::SimpleFileOptions;

use crate::command::Folder;
use crate::preprocess::pieces;
use crate::support::{golden, golden_tensors, in_own_process};
use crate::tiny_run::copy_folder;

#[track_caller]
fn assert_equal(file: &Checkpoint, expected: &Checkpoint) {
    let path = file.path().display();
    assert!(file.names().eq(expected.names()), "{path}");
    for name in expected.names() {
        let (read, wanted) = (file.tensor(name).unwrap(), expected.tensor(name).unwrap());
        assert_eq!(read.kind(), wanted.kind(), "{path}, {name}");
        assert_eq!(file.shape(name), expected.shape(name), "{path}, {name}");
        assert!(read.equal(&wanted), "{path}, {name}");
    }
}

#[test]
fn every_form_that_torch_saves_is_read_bit_by_bit() {
    let expected = golden_tensors("pickles/expected.safetensors");
    for name in [
        "zip.pt",
        "legacy.pt",
        "protocol4.pt",
        "model.pth",
        "module.pth",
        "lightning.ckpt",
        "no_checksum.pt",
    ] {
        let file = golden_tensors(&format!("pickles/{name}"));
        assert_equal(&file, &expected);
        assert_eq!(file.sha256().unwrap().len(), 64);
    }
    let shards = Checkpoint::open_component(&golden("pickles/sharded"), "model", None).unwrap();
    assert_equal(&shards, &expected);
}

#[test]
fn parts_of_a_model_are_found_under_the_names_of_pytorch_after_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        fs::copy(golden(from), folder.path().join(to)).unwrap();
    };
    let open = |stem: &str, variant| {
        let file = Checkpoint::open_component(folder.path(), stem, variant).unwrap();
        file.path().file_name().unwrap().to_owned()
    };
    copy("pickles/zip.pt", "diffusion_pytorch_model.bin");
    copy("pickles/zip.pt", "pytorch_model.bin");
    copy("pickles/legacy.pt", "pytorch_model.fp16.bin");
    assert_eq!(
        open("diffusion_pytorch_model", None),
        "diffusion_pytorch_model.bin"
    );
    assert_eq!(open("model", None), "pytorch_model.bin");
    assert_eq!(open("model", Some("fp16")), "pytorch_model.fp16.bin");
    copy("pickles/expected.safetensors", "model.safetensors");
    assert_eq!(open("model", Some("fp16")), "model.safetensors");
    // The content decides, not the name.
    copy("pickles/expected.safetensors", "named.ckpt");
    copy("pickles/legacy.pt", "named.safetensors");
    for name in ["named.ckpt", "named.safetensors"] {
        Checkpoint::open_file(&folder.path().join(name)).unwrap();
    }
}

#[test]
fn encoders_as_they_are_published_give_the_vectors_of_their_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["clip", "dino"] {
        let to = folder.path().join(name);
        copy_folder(&golden(&format!("encoders/{name}")), &to);
        fs::remove_file(to.join("model.safetensors")).unwrap();
        fs::copy(
            golden(&format!("pickles/{name}.bin")),
            to.join("pytorch_model.bin"),
        )
        .unwrap();
    }
    let texts = ["a photo of a dog".to_owned(), "!".to_owned()];
    let clip = |folder: &Path| {
        let clip = DualEncoder::open(folder, Device::Cpu, Kind::Float).unwrap();
        (
            clip.encode_images(&pieces()).unwrap(),
            clip.encode_texts(&texts).unwrap(),
        )
    };
    let (images, words) = clip(&folder.path().join("clip"));
    let (own_images, own_words) = clip(&golden("encoders/clip"));
    assert!(images.equal(&own_images) && words.equal(&own_words));
    let dino = |folder: &Path| {
        let dino = ImageEncoder::open(folder, Device::Cpu, Kind::Float).unwrap();
        dino.encode_images(&pieces()).unwrap()
    };
    assert!(dino(&folder.path().join("dino")).equal(&dino(&golden("encoders/dino"))));
}

#[test]
fn an_adapter_of_an_old_peft_is_the_same_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| fs::copy(golden(from), folder.path().join(to)).unwrap();
    copy("pickles/adapter_model.bin", "adapter_model.bin");
    copy(
        "lm/llama_adapter/adapter_config.json",
        "adapter_config.json",
    );
    let weights = |adapter: &Path| {
        let model = LanguageModel::open(&golden("lm/llama"), Device::Cpu, Kind::Float, Kind::Float)
            .unwrap();
        LoraSet::load(&model.adapters(), adapter).unwrap().merge();
        model.parameters()
    };
    let (old, new) = (weights(folder.path()), weights(&golden("lm/llama_adapter")));
    assert!(
        old.iter()
            .zip(&new)
            .all(|((_, old), (_, new))| old.equal(new))
    );
}

#[track_caller]
fn error(path: &Path) -> String {
    let error = Checkpoint::open_file(path).err().unwrap();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(recognize(path).what.contains("cannot be read"));
    error.to_string()
}

#[test]
fn other_content_is_refused_by_name() {
    for (name, what) in [
        ("sparse.pt", "torch._utils._rebuild_sparse_tensor"),
        ("quantised.pt", "torch._utils._rebuild_qtensor"),
        ("negated.pt", "negated"),
        ("module.pt", "torch.nn.modules.linear.Linear"),
        ("script.pt", "TorchScript"),
    ] {
        let error = error(&golden(&format!("pickles/{name}")));
        assert!(error.contains(what), "{name}: {error}");
    }
    let complex = golden_tensors("pickles/complex.pt");
    assert_eq!(complex.tensor("b").unwrap().size(), [2]);
    let error = complex.tensor("a").err().unwrap().to_string();
    assert!(error.contains("stored as complex64"), "{error}");
}

/// An archive of PyTorch's with this pickle.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    writer.start_file("archive/data.pkl", stored).unwrap();
    writer.write_all(pickle).unwrap();
    writer.finish().unwrap().into_inner()
}

/// A file of PyTorch before 1.6 with this pickle and no storages.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    let signature = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let system = b"\x80\x02M\xe9\x03.\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.";
    [&signature[..], system, pickle, b"\x80\x02]."].concat()
}

#[test]
fn a_pickle_without_weights_is_named_by_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("word.pt");
    for (pickle, what) in [
        (
            &b"\x80\x02}U\x0fstring_to_param}s."[..],
            "a textual inversion (a learned word)",
        ),
        (
            b"\x80\x02}U\x0aparams_ema}s.",
            "no tensors in its state dict, but `params_ema`",
        ),
        (b"\x80\x02}.", "no tensors in its state dict"),
    ] {
        fs::write(&path, archive(pickle)).unwrap();
        let error = error(&path);
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn a_pickle_that_would_run_something_is_refused_with_its_name() {
    let folder = Folder::new();
    let path = folder.path("model.ckpt");
    let mark = folder.path("ran");
    let command = format!("touch {}", mark.display());
    let length = [command.len() as u8];
    let command = command.as_bytes();
    for (pickle, name) in [
        // os.system(command), its result thrown away, and an innocent dictionary.
        ([b"\x80\x02cos\nsystem\nU", &length[..], command, b"\x85R0}."].concat(), "os.system"),
        ([b"\x80\x02}U\x01ac__builtin__\neval\nU", &length[..], command, b"\x85Rs."].concat(), "__builtin__.eval"),
        ([b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c", &length[..], command, b"\x85R."].concat(), "posix.system"),
        ([b"(U", &length[..], command, b"iposix\nsystem\n."].concat(), "posix.system"),
        (b"\x80\x02}U\x0astate_dict}U\x01actorch.hub\nload\n)Rss.".to_vec(), "torch.hub.load"),
        (b"\x80\x02}U\x0astate_dict}U\x01acsome.package\nThing\n)Rss.".to_vec(), "some.package.Thing"),
        (b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(csome\nfunction\nctorch\nTensor\n)}tR.".to_vec(), "some.function"),
    ] {
        for bytes in [archive(&pickle), legacy(&pickle)] {
            fs::write(&path, bytes).unwrap();
            let error = error(&path);
            assert!(error.contains(&format!("names `{name}`")), "{error}");
            folder
                .binary(&[
                    "generate", "--model", "model.ckpt", "--prompt", "x", "--device", "cpu", "--out", "o",
                ])
                .refused(name);
        }
    }
    assert!(!mark.exists());
}

/// A tensor of one storage of two f32 that this archive of torch's has as `data/0`, with these sizes, strides and offset.
fn view(length: u8, sizes: &[u8], strides: &[u8], offset: u8) -> Vec<u8> {
    let tuple = |numbers: &[u8]| {
        let numbers: Vec<u8> = numbers.iter().flat_map(|&number| [b'K', number]).collect();
        [b"(", numbers.as_slice(), b"t"].concat()
    };
    let storage = [
        b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK",
        &[length][..],
        b"tQ",
    ]
    .concat();
    [
        &b"\x80\x02}U\x01actorch._utils\n_rebuild_tensor_v2\n("[..],
        &storage,
        &[b'K', offset],
        &tuple(sizes),
        &tuple(strides),
        b"\x89}tRs.",
    ]
    .concat()
}

#[test]
fn views_reach_no_further_than_their_storage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pt");
    let write = |pickle: &[u8]| {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let stored =
            SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, bytes) in [
            ("data.pkl", pickle),
            ("data/0", &[0, 0, 128, 63, 0, 0, 0, 64]),
        ] {
            writer.start_file(format!("a/{name}"), stored).unwrap();
            writer.write_all(bytes).unwrap();
        }
        fs::write(&path, writer.finish().unwrap().into_inner()).unwrap();
    };
    write(&view(2, &[2], &[1], 0));
    let file = Checkpoint::open_file(&path).unwrap();
    assert_eq!(
        Vec::<f32>::try_from(file.tensor("a").unwrap()).unwrap(),
        [1.0, 2.0]
    );
    write(&view(2, &[2, 2], &[0, 1], 0));
    let file = Checkpoint::open_file(&path).unwrap();
    assert_eq!(file.tensor("a").unwrap().size(), [2, 2]);
    for (pickle, what) in [
        (view(2, &[3], &[1], 0), "reaches out of its storage"),
        (view(2, &[2], &[2], 0), "reaches out of its storage"),
        (view(2, &[1], &[1], 2), "reaches out of its storage"),
        (
            view(2, &[255, 255, 255, 255], &[0, 0, 0, 0], 0),
            "reaches out of its storage",
        ),
        (
            view(2, &[255; 20], &[255; 20], 0),
            "reaches out of its storage",
        ),
        (view(2, &[1; 65], &[1; 65], 0), "too many dimensions"),
        (view(2, &[1], &[], 0), "numbers of sizes"),
        (view(3, &[2], &[1], 0), "is too short"),
    ] {
        write(&pickle);
        let error = error(&path);
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_damaged_archive_is_not_read_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pt");
    let bytes = fs::read(golden("pickles/zip.pt")).unwrap();
    let expected = golden_tensors("pickles/expected.safetensors");
    // The first number of a tensor.
    let number = expected.tensor("float32").unwrap().double_value(&[0, 0]) as f32;
    let begin = bytes
        .windows(4)
        .position(|part| part == number.to_le_bytes());
    let mut damaged = bytes.clone();
    damaged[begin.unwrap()] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let file = Checkpoint::open_file(&path).unwrap();
    for name in ["float32", "row", "transposed"] {
        let error = file.tensor(name).err().unwrap().to_string();
        assert!(error.contains("checksum"), "{name}: {error}");
    }
    assert!(file.tensor("float64").is_ok());
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(error(&path).contains("is damaged"));
    let deep = [
        &b"\x80\x02"[..],
        &b"]".repeat(100_000),
        &b"a".repeat(99_999),
        b".",
    ]
    .concat();
    fs::write(&path, archive(&deep)).unwrap();
    assert!(error(&path).contains("holds no state dict"));
    let wide = [&b"\x80\x02]q\x00("[..], &b"h\x00".repeat(5_000_000), b"e."].concat();
    fs::write(&path, archive(&wide)).unwrap();
    assert!(error(&path).contains("more than 4000000 values"));
}

#[test]
fn the_encoders_that_our_configurations_name_open_as_they_are_published() {
    // The settings of openai/clip-vit-base-patch32 as of its first upload, with smaller numbers.
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("clip");
    copy_folder(&golden("encoders/clip"), &to);
    fs::remove_file(to.join("model.safetensors")).unwrap();
    fs::copy(golden("pickles/clip.bin"), to.join("pytorch_model.bin")).unwrap();
    let part = |more: serde_json::Value| {
        let mut part = json!({
            "_name_or_path": "", "add_cross_attention": false, "architectures": null, "attention_dropout": 0.0,
            "bad_words_ids": null, "chunk_size_feed_forward": 0, "decoder_start_token_id": null, "dropout": 0.0,
            "hidden_act": "quick_gelu", "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "initializer_factor": 1.0,
            "initializer_range": 0.02, "is_decoder": false, "layer_norm_eps": 1e-05, "projection_dim": 512,
            "pruned_heads": {}, "torch_dtype": null, "transformers_version": "4.16.0.dev0", "use_bfloat16": false,
        });
        part.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        part
    };
    let text = json!({
        "model_type": "clip_text_model", "hidden_size": 24, "intermediate_size": 40, "max_position_embeddings": 77,
        "num_attention_heads": 3, "num_hidden_layers": 2, "vocab_size": 538, "bos_token_id": 0, "eos_token_id": 2,
        "pad_token_id": 1,
    });
    let vision = json!({
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "image_size": 48,
        "num_attention_heads": 4, "num_hidden_layers": 3, "patch_size": 16, "bos_token_id": null, "eos_token_id": null,
        "pad_token_id": null,
    });
    let config = json!({
        "_name_or_path": "clip-vit-base-patch32/", "architectures": ["CLIPModel"], "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592, "model_type": "clip", "projection_dim": 20,
        "text_config": part(text), "text_config_dict": null, "torch_dtype": "float32", "transformers_version": null,
        "vision_config": part(vision), "vision_config_dict": null,
    });
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    let processor = json!({
        "crop_size": 48, "do_center_crop": true, "do_normalize": true, "do_resize": true,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 48,
    });
    fs::write(to.join("preprocessor_config.json"), processor.to_string()).unwrap();
    let clip = DualEncoder::open(&to, Device::Cpu, Kind::Float).unwrap();
    let own = DualEncoder::open(&golden("encoders/clip"), Device::Cpu, Kind::Float).unwrap();
    let texts = ["a photo of a dog".to_owned()];
    assert!(
        clip.encode_texts(&texts)
            .unwrap()
            .equal(&own.encode_texts(&texts).unwrap())
    );
    assert_eq!(clip.encode_images(&pieces()).unwrap().size()[1], 20);
    // Those of facebook/dino-vits16.
    let to = folder.path().join("dino");
    copy_folder(&golden("encoders/dino"), &to);
    fs::remove_file(to.join("model.safetensors")).unwrap();
    fs::copy(golden("pickles/dino.bin"), to.join("pytorch_model.bin")).unwrap();
    let config = json!({
        "architectures": ["ViTModel"], "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0, "hidden_size": 24, "image_size": 40, "initializer_range": 0.02,
        "intermediate_size": 48, "layer_norm_eps": 1e-12, "model_type": "vit", "num_attention_heads": 3,
        "num_channels": 3, "num_hidden_layers": 3, "patch_size": 8, "qkv_bias": true, "transformers_version": "4.11.3",
    });
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    let processor = json!({
        "do_normalize": true, "do_resize": true, "feature_extractor_type": "ViTFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 40,
    });
    fs::write(to.join("preprocessor_config.json"), processor.to_string()).unwrap();
    let dino = ImageEncoder::open(&to, Device::Cpu, Kind::Float).unwrap();
    assert_eq!(dino.encode_images(&pieces()).unwrap().size()[1], 24);
}

/// Peak memory of the process so far, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    1024 * kilobytes.parse::<u64>().unwrap()
}

#[test]
fn an_archive_takes_the_memory_of_one_tensor_at_a_time() {
    let _ = in_own_process("pickles::peak_of_an_archive");
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn peak_of_an_archive() {
    const TENSORS: u8 = 10;
    const NUMBERS: u32 = 4 << 20;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ckpt");
    let mut pickle = b"\x80\x02}".to_vec();
    let number = [&b"J"[..], &NUMBERS.to_le_bytes()].concat();
    for letter in (b'a'..).take(TENSORS.into()) {
        let storage = [
            &b"(U\x07storagectorch\nFloatStorage\nU\x01"[..],
            &[letter],
            b"U\x03cpu",
            &number,
            b"tQ",
        ];
        let tensor = [&b"K\x00("[..], &number, b"t(K\x01t\x89}tRs"];
        let name = [
            &b"U\x01"[..],
            &[letter],
            b"ctorch._utils\n_rebuild_tensor_v2\n(",
        ];
        pickle.extend([name.concat(), storage.concat(), tensor.concat()].concat());
    }
    pickle.push(b'.');
    let mut writer = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    writer.start_file("a/data.pkl", stored).unwrap();
    writer.write_all(&pickle).unwrap();
    for letter in (b'a'..).take(TENSORS.into()) {
        writer
            .start_file(format!("a/data/{}", char::from(letter)), stored)
            .unwrap();
        for _ in 0..NUMBERS / 1024 {
            writer.write_all(&[letter; 4096]).unwrap();
        }
    }
    writer.finish().unwrap();

    let before = peak();
    let file = Checkpoint::open_file(&path).unwrap();
    assert_eq!(file.names().count(), usize::from(TENSORS));
    let mut peaks = Vec::new();
    for name in file.names() {
        let tensor = file.tensor(name).unwrap();
        let first = f32::from_le_bytes([name.as_bytes()[0]; 4]);
        let last = tensor.double_value(&[-1]) as f32;
        assert_eq!(last.to_bits(), first.to_bits());
        peaks.push(peak() - before);
    }
    // The first ones bring libtorch's code into memory, too.
    let (tensor, last) = (4 * u64::from(NUMBERS), peaks[peaks.len() - 1]);
    println!(
        "{} MB of tensors read one by one: {} MB at the peak, {} MB after two",
        u64::from(TENSORS) * tensor / 1_000_000,
        last / 1_000_000,
        peaks[1] / 1_000_000
    );
    assert!(last < 4 * tensor && last - peaks[1] < tensor, "{peaks:?}");
}
