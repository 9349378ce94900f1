"""Tiny Stable Diffusion folders with random weights (1.x, 2.x with v-prediction, XL) and what diffusers makes of them.

`sd1`, `sd2` and `sdxl` are complete pipeline folders. Weights are stored as f16 and computed with in f32. Norms
and biases are random too, so that a forgotten one shows. Beside the folders: `*_unet` (outputs and gradients),
`vae`, `*_pipeline` (token ids, embeddings, 20 steps with each sampler) as safetensors.
"""
import json
import pathlib
import shutil

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

MERGES = ["t h", "th e</w>", "a n", "an d</w>", "d o", "do g</w>", "c a", "ca t</w>", "i n", "in g</w>", "o n</w>",
          "p h", "ph o", "pho t", "phot o</w>", "r e", "re d</w>", "b e", "be a", "bea c", "beac h</w>", "s k",
          "sk s</w>", "o f</w>"]
PROMPTS = ["a photo of a [V] dog on the beach", "The red CAT, and 2 dogs!"]
NEGATIVE = "blurry photo"
STEPS = 20

# As published with the models.
COMMON = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
              set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None, clip_sample=False)
SCHEDULERS = {
    "sd1": dict(_class_name="PNDMScheduler", _diffusers_version="0.6.0", **COMMON),
    "sd2": dict(_class_name="DDIMScheduler", _diffusers_version="0.8.0", prediction_type="v_prediction", **COMMON),
    "sdxl": dict(_class_name="EulerDiscreteScheduler", _diffusers_version="0.19.0.dev0", prediction_type="epsilon",
                 interpolation_type="linear", sample_max_value=1.0, timestep_spacing="leading",
                 use_karras_sigmas=False, **COMMON),
}
UNETS = {
    "sd1": dict(block_out_channels=(4, 8, 12), layers_per_block=1, cross_attention_dim=16, attention_head_dim=2,
                down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")),
    "sd2": dict(block_out_channels=(4, 8), layers_per_block=2, cross_attention_dim=24, attention_head_dim=(1, 2),
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                use_linear_projection=True, upcast_attention=True),
    "sdxl": dict(block_out_channels=(4, 8), layers_per_block=2, cross_attention_dim=32, attention_head_dim=(1, 2),
                 down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                 up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
                 use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
                 projection_class_embeddings_input_dim=12 + 6 * 8),
}
ENCODERS = {  # name: (class, config)
    "sd1": {"text_encoder": (CLIPTextModel, dict(hidden_size=16, hidden_act="quick_gelu", projection_dim=16))},
    "sd2": {"text_encoder": (CLIPTextModel, dict(hidden_size=24, hidden_act="gelu", projection_dim=16))},
    "sdxl": {
        "text_encoder": (CLIPTextModel, dict(hidden_size=12, hidden_act="quick_gelu", projection_dim=12)),
        "text_encoder_2": (CLIPTextModelWithProjection, dict(hidden_size=20, hidden_act="gelu", projection_dim=12)),
    },
}


def randomise(model: torch.nn.Module, seed: int, spread: float) -> torch.nn.Module:
    """Fills every tensor, zero-initialised ones and norms too, with values that f16 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            value = noise * spread / parameter[0].numel() ** 0.5
        elif name.endswith("weight"):
            value = 1 + 0.3 * noise
        else:
            value = 0.2 * noise
        parameter.data = value.half().float()
    return model.eval()


def byte_symbols() -> list[str]:
    """The 256 printable characters that byte-level BPE writes bytes as, in CLIP's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [256 + position for position in range(256 - len(printable))]
    return [chr(code) for code in printable + others]


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make_tokenizer(folder: pathlib.Path, pad: str) -> None:
    symbols = byte_symbols()
    words = symbols + [symbol + "</w>" for symbol in symbols] + [merge.replace(" ", "") for merge in MERGES]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    write_json(folder / "vocab.json", {word: index for index, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    write_json(folder / "special_tokens_map.json", {**special, "pad_token": pad})
    write_json(folder / "tokenizer_config.json", {
        **special, "pad_token": pad, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77,
        "add_prefix_space": False, "do_lower_case": True, "errors": "replace"})


def store(tensors: dict, path: pathlib.Path, metadata=None) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def rename_tensors(path: pathlib.Path, rename) -> None:
    save_file({rename(name): tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def make_folder(family: str, folder: pathlib.Path):
    shutil.rmtree(folder, ignore_errors=True)
    tokenizers = {}
    for name, pad in {"sd1": {"tokenizer": "<|endoftext|>"}, "sd2": {"tokenizer": "!"},
                      "sdxl": {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}}[family].items():
        make_tokenizer(folder / name, pad)
        tokenizers[name] = CLIPTokenizer.from_pretrained(folder / name)
        padded = tokenizers[name]("dog", padding="max_length").input_ids
        assert len(padded) == 77 and padded[-1] == {"!": 0, "<|endoftext|>": 537}[pad], padded
    encoders = {}
    for number, (name, (kind, extra)) in enumerate(ENCODERS[family].items()):
        width = extra["hidden_size"]
        config = CLIPTextConfig(vocab_size=538, intermediate_size=2 * width, num_hidden_layers=3,
                                num_attention_heads=2, max_position_embeddings=77, bos_token_id=0, pad_token_id=1,
                                eos_token_id=2, **extra)
        encoders[name] = randomise(kind(config), 100 + number, 1.5)
    vae = AutoencoderKL(
        block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.13025 if family == "sdxl" else 0.18215)
    unet = UNet2DConditionModel(sample_size=8, norm_num_groups=2, **UNETS[family])
    scheduler = {"sd1": PNDMScheduler, "sd2": DDIMScheduler, "sdxl": EulerDiscreteScheduler}[family]
    parts = dict(vae=randomise(vae, 1, 1.0), unet=randomise(unet, 2, 1.0), **encoders, **tokenizers,
                 scheduler=scheduler.from_config(SCHEDULERS[family]))
    if family == "sdxl":
        pipeline = StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=True, add_watermarker=False)
    else:
        pipeline = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None,
                                           requires_safety_checker=False)
    # `save_pretrained` would write the tokenizers in the newest layout; published folders have the old one.
    kept = {name: {path.name: path.read_bytes() for path in (folder / name).iterdir()} for name in tokenizers}
    pipeline.to(torch.float16).save_pretrained(folder)
    for name, files in kept.items():
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
        for file, content in files.items():
            (folder / name / file).write_bytes(content)
    write_json(folder / "scheduler/scheduler_config.json", SCHEDULERS[family])
    as_published(family, folder)
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipeline = kind.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def as_published(family: str, folder: pathlib.Path) -> None:
    """Old spellings that the published folders of the family have."""
    if family == "sdxl":
        return
    rename_tensors(folder / "text_encoder/model.safetensors",
                   lambda name: name if name.startswith("text_model.") else f"text_model.{name}")
    if family == "sd1":
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

        def rename(name: str) -> str:
            for new, old_name in old.items():
                name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old_name}.")
            return name

        rename_tensors(folder / "vae/diffusion_pytorch_model.safetensors", rename)
        for part, absent in {"vae": ["scaling_factor", "latents_mean", "latents_std", "force_upcast", "shift_factor",
                                     "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"],
                             "unet": None}.items():
            config = json.loads((folder / part / "config.json").read_text())
            if absent is None:  # the keys that Stable Diffusion 1.5 has
                present = ["_class_name", "_diffusers_version", "act_fn", "attention_head_dim", "block_out_channels",
                           "center_input_sample", "cross_attention_dim", "down_block_types", "downsample_padding",
                           "flip_sin_to_cos", "freq_shift", "in_channels", "layers_per_block",
                           "mid_block_scale_factor", "norm_eps", "norm_num_groups", "out_channels", "sample_size",
                           "up_block_types"]
                absent = [key for key in config if key not in present]
            write_json(folder / part / "config.json", {k: v for k, v in config.items() if k not in absent})


def make_unet(family: str, unet: UNet2DConditionModel, out: pathlib.Path) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, size in {"even": (8, 12), "odd": (7, 10), "wide": (12, 20)}.items():
        sample = torch.randn(2, 4, *size, generator=generator)
        timesteps = torch.tensor([981, 7])
        context = torch.randn(2, 5, unet.config.cross_attention_dim, generator=generator)
        target = torch.randn(2, 4, *size, generator=generator)
        tensors |= {f"{name}.sample": sample, f"{name}.timesteps": timesteps, f"{name}.context": context}
        added = None
        if family == "sdxl":
            added = {"text_embeds": torch.randn(2, 12, generator=generator),
                     "time_ids": torch.tensor([[16.0, 24, 0, 0, 16, 24], [512, 640, 3, 9, 512, 512]])}
            tensors |= {f"{name}.{key}": value for key, value in added.items()}
        output = unet(sample, timesteps, context, added_cond_kwargs=added).sample
        tensors[f"{name}.output"] = output.detach()
        if name == "even":
            # In f64: some gradients of these tiny networks are sums that cancel to 1e-5 of their terms.
            exact = [value.double() for value in (sample, context, target)]
            exact_added = added and {key: value.double() for key, value in added.items()}
            unet.double()
            output = unet(exact[0], timesteps, exact[1], added_cond_kwargs=exact_added).sample
            loss = torch.nn.functional.mse_loss(output, exact[2])
            loss.backward()
            tensors |= {"even.target": target, "even.loss": loss.detach().float()}
            tensors |= {f"grad.{key}": value.grad.float() for key, value in unet.named_parameters()}
            unet.zero_grad()
            unet.float()
    store(tensors, out / f"{family}_unet.safetensors")


@torch.no_grad()
def make_vae(vae: AutoencoderKL, out: pathlib.Path) -> None:
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(3, 3, 16, 24, generator=generator) * 2 - 1
    latents = torch.randn(3, 4, 8, 12, generator=generator)
    posterior = vae.encode(images).latent_dist
    store({"images": images, "mean": posterior.mean, "std": posterior.std, "latents": latents,
           "decoded": vae.decode(latents).sample}, out / "vae.safetensors")


@torch.no_grad()
def make_pipeline(family: str, pipeline, out: pathlib.Path) -> None:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 8, 12, generator=generator)
    # XL without a negative prompt: zeros (`force_zeros_for_empty_prompt`).
    negative = None if family == "sdxl" else [NEGATIVE] * 2
    guidance = 5.0 if family == "sdxl" else 7.5
    encoded = pipeline.encode_prompt(prompt=PROMPTS, negative_prompt=negative, device="cpu",
                                     num_images_per_prompt=1, do_classifier_free_guidance=True)
    names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    tensors = {"latents": latents, **{n: e.clone() for n, e in zip(names, encoded, strict=False)}}
    for name in ["tokenizer", "tokenizer_2"]:
        if hasattr(pipeline, name):
            texts = PROMPTS + [NEGATIVE, ""]
            tensors[f"{name}.ids"] = getattr(pipeline, name)(
                texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    config = SCHEDULERS[family]
    for name, kind in {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler,
                       "euler": EulerDiscreteScheduler}.items():
        for kind_of_output in ["latent", "pt"]:
            pipeline.scheduler = kind.from_config(config)
            images = pipeline(prompt=PROMPTS, negative_prompt=negative, height=16, width=24, latents=latents.clone(),
                              num_inference_steps=STEPS, guidance_scale=guidance, output_type=kind_of_output).images
            tensors[f"{name}.{'latents' if kind_of_output == 'latent' else 'images'}"] = images
    store(tensors, out / f"{family}_pipeline.safetensors",
          {"prompts": json.dumps(PROMPTS), "negative": NEGATIVE if negative else "",
           "guidance": str(guidance), "steps": str(STEPS)})


# Changes to the Stable Diffusion 1 configuration, and numbers of steps.
VARIANTS = {
    "sd1": ({}, 20),
    "sd2": (SCHEDULERS["sd2"], 20),
    "sdxl": (SCHEDULERS["sdxl"], 20),
    "few": (dict(prediction_type="v_prediction"), 7),
    "one": (dict(timestep_spacing="trailing"), 1),
    "many": (dict(timestep_spacing="leading"), 333),
    "trailing": (dict(timestep_spacing="trailing", prediction_type="v_prediction"), 30),
    "linspace": (dict(timestep_spacing="linspace", steps_offset=0), 20),
    "leading": (dict(timestep_spacing="leading", steps_offset=0, set_alpha_to_one=True), 25),
    "zero_snr": (dict(timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True), 20),
    "sample": (dict(prediction_type="sample", beta_schedule="linear", beta_start=0.0001, beta_end=0.02), 20),
    "cosine": (dict(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", lambda_min_clipped=-5.1,
                    timestep_spacing="leading"), 20),
    "betas": (dict(trained_betas=[0.001 + 0.0002 * step for step in range(100)], num_train_timesteps=100), 10),
    "sigma_min": (dict(final_sigmas_type="sigma_min"), 20),
    "sigma_min_few": (dict(final_sigmas_type="sigma_min"), 9),
    "second_order_end": (dict(final_sigmas_type="sigma_min", lower_order_final=False), 9),
    "euler_end": (dict(final_sigmas_type="sigma_min", euler_at_final=True), 20),
}

# What samplers alone read of the scheduler's file, and numbers of steps.
SOLVERS = {
    "order_1": (dict(solver_order=1), 20),
    "order_3": (dict(solver_order=3), 20),
    "order_3_few": (dict(solver_order=3, prediction_type="v_prediction"), 9),
    "order_3_to_the_end": (dict(solver_order=3, final_sigmas_type="sigma_min", lower_order_final=False), 9),
    "order_3_sigma_min": (dict(solver_order=3, final_sigmas_type="sigma_min", timestep_spacing="trailing"), 20),
    "heun": (dict(solver_type="heun"), 20),
    "heun_few": (dict(solver_type="heun", final_sigmas_type="sigma_min", lower_order_final=False), 6),
    "bh2": (dict(_class_name="UniPCMultistepScheduler", solver_type="bh2", solver_order=3), 20),
    "deis": (dict(_class_name="DEISMultistepScheduler", algorithm_type="deis", solver_type="logrho",
                  final_sigmas_type="sigma_min"), 20),
    "noise": (dict(algorithm_type="dpmsolver", final_sigmas_type="sigma_min"), 20),
    "noise_heun": (dict(algorithm_type="dpmsolver", final_sigmas_type="sigma_min", solver_type="heun",
                        prediction_type="v_prediction"), 9),
    "noise_3": (dict(algorithm_type="dpmsolver", final_sigmas_type="sigma_min", solver_order=3,
                     prediction_type="sample"), 20),
    "karras": (dict(use_karras_sigmas=True), 20),
    "karras_leading": (dict(use_karras_sigmas=True, timestep_spacing="leading", solver_order=3), 11),
    "karras_bounds": (dict(use_karras_sigmas=True, sigma_min=0.1, sigma_max=9.0), 20),
    "karras_cosine": (dict(use_karras_sigmas=True, beta_schedule="squaredcos_cap_v2", sigma_max=20.0,
                           prediction_type="v_prediction"), 12),
    "lu": (dict(use_lu_lambdas=True), 20),
    "lu_exponential": (dict(use_lu_lambdas=True, use_exponential_sigmas=True, sigma_max=9.0), 20),
    "exponential": (dict(use_exponential_sigmas=True), 20),
    "exponential_trailing": (dict(use_exponential_sigmas=True, timestep_spacing="trailing",
                                  final_sigmas_type="sigma_min"), 20),
}


def with_exact_tables(scheduler):
    """The scheduler with its tables in f64: in f32, 1 - abar near the clean end and the cosine schedule near the
    noisy end lose more digits than the samplers are compared to."""
    config = scheduler.config
    steps = config.num_train_timesteps
    if config.trained_betas is not None:
        betas = torch.tensor(config.trained_betas, dtype=torch.float64)
    elif config.beta_schedule == "squaredcos_cap_v2":
        roots = torch.cos((torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * torch.pi / 2)
        betas = (1 - (roots[1:] / roots[:-1]) ** 2).clamp(max=0.999)
    else:
        power = 0.5 if config.beta_schedule == "scaled_linear" else 1
        ends = config.beta_start ** power, config.beta_end ** power
        betas = torch.linspace(*ends, steps, dtype=torch.float64) ** (1 / power)
    if config.rescale_betas_zero_snr:
        betas = rescale_zero_terminal_snr(betas)
    abar = torch.cumprod(1 - betas, 0)
    assert torch.allclose(abar.float(), scheduler.alphas_cumprod, rtol=1e-3, atol=1e-6)
    if config.rescale_betas_zero_snr and not isinstance(scheduler, (DDIMScheduler, DDPMScheduler)):
        abar[-1] = 2**-24
    scheduler.alphas_cumprod = abar
    if isinstance(scheduler, DDIMScheduler) and not config.set_alpha_to_one:
        scheduler.final_alpha_cumprod = abar[0]
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        scheduler.lambda_t = torch.log(abar.sqrt()) - torch.log((1 - abar).sqrt())
    return scheduler


def make_schedulers(out: pathlib.Path) -> None:
    """Each sampler under each configuration with `tanh(0.7 x + t / 1000)` as the network, and the training maths."""
    generator = torch.Generator().manual_seed(6)
    noise = torch.randn(2, 4, 3, 5, generator=generator)
    x0, rows = torch.randn(4, 4, 3, 5, generator=generator), torch.randn(4, 4, 3, 5, generator=generator)
    tensors, metadata = {"noise": noise, "x0": x0, "rows": rows}, {}
    for variant, (change, steps) in VARIANTS.items():
        config = {**SCHEDULERS["sd1"], **change}
        metadata[variant] = json.dumps({"config": config, "steps": steps})
        for name, kind in {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler,
                           "euler": EulerDiscreteScheduler}.items():
            scheduler = with_exact_tables(kind.from_config(config))
            scheduler.set_timesteps(steps)
            x = noise * scheduler.init_noise_sigma
            for step in scheduler.timesteps:
                output = torch.tanh(0.7 * scheduler.scale_model_input(x, step) + step / 1000)
                x = scheduler.step(output, step, x).prev_sample.float()
            assert torch.isfinite(x).all(), (variant, name)
            tensors |= {f"{variant}.{name}.timesteps": scheduler.timesteps.double(), f"{variant}.{name}": x}
        ddpm = with_exact_tables(DDPMScheduler.from_config(config))
        timesteps = torch.tensor([0, 1, 50, 99])
        tensors[f"{variant}.noisy"] = ddpm.add_noise(x0, rows, timesteps)
        tensors[f"{variant}.velocity"] = ddpm.get_velocity(x0, rows, timesteps)
        abar = ddpm.alphas_cumprod
        tensors[f"{variant}.snr"] = (abar / (1 - abar))[timesteps]
    store(tensors, out / "schedulers.safetensors", metadata)


def make_solvers(out: pathlib.Path) -> None:
    """As `make_schedulers`, of the samplers that read these settings."""
    noise = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(7))
    tensors, metadata = {"noise": noise}, {}
    for variant, (change, steps) in SOLVERS.items():
        config = {**SCHEDULERS["sd1"], **change}
        metadata[variant] = json.dumps({"config": config, "steps": steps})
        for name, kind in {"dpm": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler}.items():
            scheduler = with_exact_tables(kind.from_config(config))
            scheduler.set_timesteps(steps)
            x = noise * scheduler.init_noise_sigma
            for step in scheduler.timesteps:
                output = torch.tanh(0.7 * scheduler.scale_model_input(x, step) + step / 1000)
                x = scheduler.step(output, step, x).prev_sample.float()
            assert torch.isfinite(x).all(), (variant, name)
            tensors |= {f"{variant}.{name}.timesteps": scheduler.timesteps.double(), f"{variant}.{name}": x}
    store(tensors, out / "solvers.safetensors", metadata)


def make(out: pathlib.Path) -> None:
    make_schedulers(out)
    make_solvers(out)
    for family in ["sd1", "sd2", "sdxl"]:
        pipeline = make_folder(family, out / family)
        make_unet(family, pipeline.unet, out)
        if family == "sd1":  # the three folders hold the same autoencoder under old and new names
            make_vae(pipeline.vae, out)
        make_pipeline(family, pipeline, out)
