"""RPO training of the tiny SD1 U-Net, full and LoRA: loss, first gradients, ten AdamW steps with clipping, in torch.

Computed in f64 and stored as f32: torch's own f32 gradients are off by about 1e-5 here (sums that cancel).

Needs the area `diffusion`. The trained U-Net starts beside its frozen base (weights of both differ) so that the
margin is not 0; a LoRA starts with a B that is not 0 for the same reason.
"""
import json
import pathlib

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

STEPS = 10
BETA = 20.0
# eps above the rounding of gradients that are 0 in exact arithmetic (a bias before an instance norm): AdamW would
# otherwise turn their random signs into full updates, here and in torch, and nothing could be compared.
ADAMW = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.05)
CLIP = 0.5


def rpo_loss(errors, base, label):
    """Spec part A.3; `errors` and `base` hold the photos' rows first."""
    ref, gen = errors.chunk(2)
    base_ref, base_gen = base.chunk(2)
    margin = (base_ref - ref) - (base_gen - gen)
    log_sigmoid = torch.nn.functional.logsigmoid
    preference = -(label * log_sigmoid(BETA * margin) + (1 - label) * log_sigmoid(-BETA * margin))
    return (ref + preference).mean()


def make(out: pathlib.Path) -> None:
    folder = out.parent / "diffusion" / "sd1"
    generator = torch.Generator().manual_seed(11)
    randn = lambda *shape: torch.randn(shape, generator=generator)
    schedule = DDPMScheduler.from_pretrained(folder / "scheduler")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float64)
    base = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float64).requires_grad_(False)

    clean, noise, context = randn(4, 4, 8, 8), randn(4, 4, 8, 8), randn(4, 7, 16)
    timesteps = torch.tensor([17, 421, 733, 981])
    label = torch.tensor([0.375, 0.875])
    inputs = dict(clean=clean, noise=noise, context=context, timesteps=timesteps, label=label)
    # diffusers rounds its table of abar to f32; from its betas in f64, as f32 is not the point here.
    abar = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)[timesteps]
    assert (abar - schedule.alphas_cumprod[timesteps]).abs().max() < 1e-6
    clean, noise, context, label = clean.double(), noise.double(), context.double(), label.double()
    abar = abar.view(-1, 1, 1, 1)
    noisy = abar.sqrt() * clean + (1 - abar).sqrt() * noise

    def errors_of(model):
        prediction = model(noisy, timesteps, encoder_hidden_states=context).sample
        return (prediction - noise).square().mean(dim=(1, 2, 3))

    def train(name, model, parameters, base_errors):
        results, losses = {}, []
        optimizer = torch.optim.AdamW([p for _, p in parameters], **ADAMW)
        for step in range(STEPS):
            loss = rpo_loss(errors_of(model), base_errors, label)
            losses.append(loss.detach())
            loss.backward()
            if step == 0:
                results |= {f"gradient.{key}": p.grad.clone() for key, p in parameters}
            norm = torch.nn.utils.clip_grad_norm_([p for _, p in parameters], CLIP)
            losses[-1] = torch.stack([losses[-1], norm.detach()])
            optimizer.step()
            optimizer.zero_grad()
        results |= {f"final.{key}": p.detach().clone() for key, p in parameters}
        results["losses_and_norms"] = torch.stack(losses)
        save_file({key: value.float() for key, value in results.items()}, out / f"{name}.safetensors")

    with torch.no_grad():
        base_errors = errors_of(base)

    # Full: the policy is the base with every tensor moved a little.
    start = {}
    for key, parameter in unet.named_parameters():
        start[f"start.{key}"] = randn(*parameter.shape).mul(0.02).half().float()
        parameter.data += start[f"start.{key}"].double()
    save_file(inputs | {key: value.half() for key, value in start.items()}, out / "inputs.safetensors")
    train("full", unet, list(unet.named_parameters()), base_errors)

    # LoRA, as diffusers' scripts attach it.
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float64).requires_grad_(False)
    unet.add_adapter(LoraConfig(r=3, lora_alpha=6, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    trained = [(key.replace(".default", ""), p) for key, p in unet.named_parameters() if p.requires_grad]
    for _, parameter in trained:
        parameter.data = randn(*parameter.shape).mul(0.2).double()
    adapter = get_peft_model_state_dict(unet)
    settings = {"unet.r": 3, "unet.lora_alpha": 6, "unet.target_modules": ["to_q", "to_k", "to_v", "to_out.0"]}
    save_file({f"unet.{key}": value.float().contiguous().clone() for key, value in adapter.items()},
              out / "lora_start.safetensors", metadata={"lora_adapter_metadata": json.dumps(settings)})
    train("lora", unet, trained, base_errors)
