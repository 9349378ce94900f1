//! Paths that are not what a verb needs, named for what they are, with what to do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use preftune::models::diffusion::pipeline::{Kinds, Pipeline};
use preftune::models::encoders::{DualEncoder, ImageEncoder};
use preftune::models::lm::LanguageModel;
use preftune::models::recognize::{is_no_language_model, not_a, recognize};
use preftune::models::weights::{Checkpoint, save};
use tch::{Device, Kind, Tensor};

use crate::command::{self, own_folder};
use crate::support::golden;

own_folder!();

/// Tensors of a file, each as `name:shape`; words of what it is, and of what to do with it.
const FILES: [(&str, &str, &str); 26] = [
    (
        "MODEL.0.0.weight:320,4,1,1 MODEL.1.1.transformer_blocks.0.attn2.to_k.weight:1,768 first_stage_model.x:1",
        "Stable Diffusion 1 checkpoint in one file",
        "",
    ),
    (
        "MODEL.0.0.weight:320,4,1,1 MODEL.1.1.transformer_blocks.0.attn2.to_k.weight:1,1024 first_stage_model.x:1",
        "Stable Diffusion 2 checkpoint",
        "",
    ),
    (
        "MODEL.0.0.weight:320,4,1,1 conditioner.embedders.1.model.ln_final.weight:1",
        "Stable Diffusion XL checkpoint in one file without its autoencoder",
        "baked in",
    ),
    ("MODEL.0.0.weight:320,9,1,1", "for inpainting", "made from"),
    ("MODEL.0.0.weight:320,8,1,1", "for editing", "made from"),
    (
        "double_blocks.0.img_attn.qkv.weight:1",
        "Flux",
        "Stable Diffusion 1, 2 and XL",
    ),
    (
        "model.diffusion_model.joint_blocks.0.x_block.mlp:1",
        "Stable Diffusion 3",
        "XL",
    ),
    (
        "encoder.down.0.block.0.conv1.weight:1 quant_conv.weight:1",
        "autoencoder",
        "`model.vae`",
    ),
    (
        "encoder.down.0.block.0.conv1.weight:1",
        "autoencoder (VAE) of Flux",
        "XL",
    ),
    (
        "encoder.down_blocks.0.resnets.0.conv1.weight:1",
        "autoencoder",
        "folder",
    ),
    (
        "down_blocks.0.resnets.0.conv1.weight:1",
        "U-Net alone",
        "unet",
    ),
    (
        "lora_unet_down_blocks_0_proj_in.lora_down.weight:1",
        "a LoRA, not a model",
        "--lora",
    ),
    (
        "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight:1",
        "LoRA of Flux",
        "XL",
    ),
    ("lora_unet_mid_block.hada_w1_a:1", "LoHa", "--lora"),
    ("emb_params:1", "textual inversion", "not read"),
    ("visual.conv1.weight:1", "OpenCLIP", "reward.encoder"),
    (
        "model.layers.0.mlp.up_proj.weight:1",
        "weights of a language model",
        "folder",
    ),
    (
        "control_model.input_hint_block.0.weight:1",
        "ControlNet",
        "give the model alone",
    ),
    (
        "image_proj.proj.weight:1 ip_adapter.1.to_k_ip.weight:1",
        "IP-Adapter",
        "give the model alone",
    ),
    (
        "down_blocks.0.motion_modules.0.norm.weight:1",
        "motion module",
        "give the model alone",
    ),
    (
        "body.0.block1.weight:1",
        "T2I-Adapter",
        "give the model alone",
    ),
    (
        "model.1.sub.0.RDB1.conv1.0.weight:1",
        "upscaler",
        "give the model alone",
    ),
    (
        "768.0.linear.0.weight:1",
        "hypernetwork",
        "give the model alone",
    ),
    (
        "clip_g:1,1280 clip_l:1,768",
        "textual inversion",
        "not read",
    ),
    (
        "input_blocks.0.0.weight:320,4,1,1",
        "a U-Net alone",
        "text encoder",
    ),
    (
        "MODEL.0.0.weight:384,4,1,1 model.diffusion_model.label_emb.0.0.weight:1 conditioner.embedders.0.model.x:1 \
         first_stage_model.x:1",
        "(refiner)",
        "base model of Stable Diffusion XL",
    ),
];

#[test]
fn single_files_are_told_apart_by_their_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.safetensors");
    let tensor = |text: &str| {
        let (name, shape) = text.rsplit_once(':').unwrap();
        let shape: Vec<i64> = shape.split(',').map(|size| size.parse().unwrap()).collect();
        let name = name.replace("MODEL", "model.diffusion_model.input_blocks");
        (name, Tensor::zeros(shape, (Kind::Half, Device::Cpu)))
    };
    for (tensors, what, advice) in FILES {
        let tensors: Vec<_> = tensors.split(' ').map(tensor).collect();
        save(&path, &tensors, &BTreeMap::new()).unwrap();
        let seen = recognize(&path);
        assert!(seen.what.contains(what), "{what}: {}", seen.what);
        assert!(seen.advice.contains(advice), "{what}: {}", seen.advice);
    }
}

#[test]
fn folders_are_named_for_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    for (file, content, what) in [
        ("config.json", r#"{"model_type": "siglip"}"#, "SigLIP model"),
        ("config.json", r#"{"model_type": "siglip2"}"#, "SigLIP 2"),
        ("config.json", r#"{"model_type": "dinov2"}"#, "DINOv2"),
        ("config.json", r#"{"model_type": "dinov3_vit"}"#, "DINOv3"),
        (
            "config.json",
            r#"{"model_type": "dinov3_convnext"}"#,
            "DINOv3 model of convolutions",
        ),
        ("config.json", r#"{"model_type": "t5"}"#, "type `t5`"),
        (
            "config.json",
            r#"{"_class_name": "AutoencoderKL"}"#,
            "autoencoder (VAE)",
        ),
        (
            "config.json",
            r#"{"_class_name": "FluxTransformer2DModel"}"#,
            "FluxTransformer2DModel",
        ),
        (
            "model_index.json",
            r#"{"_class_name": "FluxPipeline"}"#,
            "`FluxPipeline`",
        ),
        (
            "model_index.json",
            r#"{"_class_name": "StableDiffusion3Pipeline"}"#,
            "`StableDiffusion3Pipeline`",
        ),
        (
            "adapter_config.json",
            r#"{"peft_type": "LORA", "base_model_name_or_path": "org/base"}"#,
            "made for `org/base`",
        ),
        ("open_clip_config.json", "{}", "OpenCLIP"),
        ("pytorch_lora_weights.safetensors", "", "LoRA of diffusers"),
        ("model.ckpt", "\u{80}\u{2}", "is a"),
        ("q.gguf", "GGUF", "GGUF files"),
        ("notes.txt", "x", "holds no model"),
    ] {
        let inner = folder.path().join("model");
        let _ = fs::remove_dir_all(&inner);
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join(file), content).unwrap();
        let seen = recognize(&inner);
        assert!(seen.what.contains(what), "{what}: {}", seen.what);
        // No loader takes it, and each says so in these words.
        let kinds = Kinds {
            compute: Kind::Float,
            unet: Kind::Float,
        };
        for error in [
            Pipeline::open(&inner, None, None, Device::Cpu, kinds).err(),
            DualEncoder::open(&inner, Device::Cpu, Kind::Float).err(),
            ImageEncoder::open(&inner, Device::Cpu, Kind::Float).err(),
            LanguageModel::open(&inner, Device::Cpu, Kind::Float, Kind::Float).err(),
        ] {
            let error = error.unwrap();
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            // A loader that takes this kind misses the next of its files.
            let goes_on = ["no `preprocessor_config.json`", "no `model_cfg`"];
            let read = ["SigLIP model", "DINOv2", "DINOv3", "OpenCLIP"].contains(&what);
            let goes_on = read && goes_on.iter().any(|next| text.contains(next));
            assert!(goes_on || text.contains(&seen.what), "{what}: {error}");
        }
    }
}

#[test]
fn files_that_stand_for_others_are_named_wherever_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n";
    let page = "<!DOCTYPE html>\n<html></html>";
    for (content, what) in [
        (pointer, "git-lfs pointer"),
        (page, "web page"),
        ("", "an empty file"),
    ] {
        for name in ["model.safetensors", "pytorch_model.bin"] {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            let error = Checkpoint::open_file(&path).err().unwrap();
            assert!(error.to_string().contains(what), "{name}: {error}");
        }
        let path = folder.path().join("model.gguf");
        fs::write(&path, content).unwrap();
        let error = LanguageModel::open(&path, Device::Cpu, Kind::Float, Kind::Float).err();
        assert!(error.unwrap().to_string().contains(what));
    }
}

/// A cache of the hub with one repository in it.
fn cache(root: &Path) {
    let repository = root.join("hub/models--org--name");
    let snapshot = repository.join("snapshots/0123abcd");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::create_dir_all(repository.join("blobs")).unwrap();
    fs::write(repository.join("refs/main"), "0123abcd").unwrap();
}

#[test]
fn a_cache_folder_is_answered_with_its_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    cache(folder.path());
    for inner in [
        "hub/models--org--name",
        "hub/models--org--name/snapshots",
        "hub/models--org--name/blobs",
        "hub",
    ] {
        let error = not_a(&folder.path().join(inner), "a language model");
        assert!(
            error.hint().unwrap().contains("snapshots/0123abcd"),
            "{inner}: {error}"
        );
    }
}

impl Folder {
    fn new() -> Self {
        Self(command::Folder::new())
    }
}

#[test]
fn a_name_on_the_hub_is_answered_with_what_to_do() {
    let folder = Folder::new();
    for (name, hint) in [
        ("org/other", "preftune fetch org/other"),
        (
            "runwayml/stable-diffusion-v1-5",
            "preftune fetch stable-diffusion-v1-5/stable-diffusion-v1-5",
        ),
        ("./org/other", "Hugging Face layout"),
        (
            "https://civitai.com/models/4201",
            "download the file, and give its path",
        ),
        (
            "https://huggingface.co/org/other/tree/main",
            "`preftune fetch org/other`",
        ),
    ] {
        let generate = [
            "generate", "--model", name, "--prompt", "a dog", "--out", "out",
        ];
        let ran = folder.binary(&generate);
        ran.refused(if name.starts_with("http") {
            "is an address"
        } else {
            "no such"
        });
        let error = not_a(Path::new(name), "a model");
        assert!(
            error.hint().unwrap().contains(hint),
            "{name}: {:?}",
            error.hint()
        );
    }
    let adapter = golden("adapters/eva");
    let config = format!(
        "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\ntrain = {}\n[objective]\nkind = \"dpo\"\n\
         [validation]\nevery = 0\npatience = 0\n",
        command::quoted(&adapter),
        command::quoted(&golden("text/pairs.jsonl"))
    );
    fs::write(folder.path("run.toml"), config).unwrap();
    folder
        .binary(&["train", "run.toml"])
        .refused("a LoRA adapter of PEFT, made for `llama`");
}

/// Whatever flags are given, a model that cannot generate is named for what it is, not for what it is not.
#[test]
fn what_is_no_model_that_generates_is_not_called_a_language_model() {
    let folder = command::Folder::new();
    let (clip, unet) = (golden("encoders/clip"), golden("diffusion/sd1/unet"));
    for (model, words) in [
        (clip.as_path(), "is a CLIP model"),
        (unet.as_path(), "is a U-Net, a part of a model"),
    ] {
        assert!(is_no_language_model(model), "{words}");
        for more in [&["--steps", "2"][..], &["--out", "out/x"]] {
            let model = model.to_str().unwrap();
            let asked = ["generate", "--model", model, "--prompt", "a dog"];
            folder.binary(&[&asked[..], more].concat()).refused(words);
        }
    }
    assert!(!is_no_language_model(&golden("text/model")));
    assert!(!is_no_language_model(&golden("diffusion/sd1")));
    let vae = clip.to_str().unwrap();
    let model = golden("diffusion/sd1");
    let model = model.to_str().unwrap();
    let asked = [
        "generate", "--model", model, "--vae", vae, "--prompt", "a dog", "--out", "out",
    ];
    folder
        .binary(&asked)
        .refused("is a CLIP model (`clip`); an autoencoder (VAE)");
}
