"""The phases of the official RPO code for one subject, in plain diffusers and transformers: for `subject` of image.py.

What it does as often as it does it (their `train.py` with 5 photos, 400 steps, a validation every 40): 8 x 16 negatives,
one at a time, 50 steps with guidance; 107 reward encodes a prompt to label them; steps with autoencoder and text encoder
in each and a separate U-Net as the base; 10 validations of 8 x 4 images, one at a time, each with the reward model loaded
anew and every image encoded once for each photo (232 encodes). Every phase repeats one piece, so a share of the pieces
is timed and multiplied: what is multiplied is in `SHARES`.
"""

import copy
import time

PROMPTS, NEGATIVES, STEPS, VALIDATIONS, IMAGES, DENOISING = 8, 16, 400, 10, 4, 50
# Pieces that are timed, of all.
SHARES = {"negatives": (2, PROMPTS), "labels": (2, PROMPTS), "steps": (100, STEPS), "validations": (2, VALIDATIONS)}

# What the official code counts; its negatives, and its validations of 8 x 4 images.
UNET_SAMPLING = (PROMPTS * NEGATIVES + VALIDATIONS * PROMPTS * IMAGES) * DENOISING * 2
UNET_TRAINING = STEPS * (2 + 2)
REWARD_ENCODES = PROMPTS * 107 + VALIDATIONS * PROMPTS * (5 * (1 + IMAGES) + IMAGES)


def official(base, encoder, photos, prompts, side):
    """Seconds by phase; everything but the reward model is loaded before."""
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from PIL import Image
    from transformers import CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    reference = copy.deepcopy(unet).requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(base / "vae")
    references = [Image.open(photo).convert("RGB") for photo in photos]
    processor = CLIPImageProcessorPil.from_pretrained(encoder)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=5e-6)

    def sample(prompt, model):
        pipeline.unet = model
        return pipeline(prompt, num_inference_steps=DENOISING, guidance_scale=7.5, height=side, width=side).images[0]

    @torch.no_grad()
    def encode(model, images):
        model.get_image_features(pixel_values=processor(images, return_tensors="pt")["pixel_values"])

    def reward(model, images):
        for photo in references:
            encode(model, [photo, *images])
        encode(model, images)

    negatives = []

    def negative(index):
        negatives.append([sample(prompts[index], reference) for _ in range(NEGATIVES)])

    def label(index):
        model = CLIPModel.from_pretrained(encoder).eval() if index == 0 else label.model
        label.model = model
        reward(model, negatives[index % len(negatives)])
        encode(model, [*references, references[0]])

    def validate(_):
        model = CLIPModel.from_pretrained(encoder).eval()
        for prompt in prompts:
            reward(model, [sample(prompt, unet) for _ in range(IMAGES)])

    def pixels(image):
        values = torch.frombuffer(bytearray(image.resize((side, side)).tobytes()), dtype=torch.uint8)
        return values.view(side, side, 3).permute(2, 0, 1) / 127.5 - 1

    def step(index):
        images = [references[index % len(references)], negatives[index % len(negatives)][0]]
        images = torch.stack([pixels(image) for image in images])
        words = pipeline.tokenizer([prompts[0], prompts[1]], padding="max_length", truncation=True, return_tensors="pt",
                                   max_length=pipeline.tokenizer.model_max_length)
        with torch.no_grad():
            tokens = pipeline.text_encoder(words.input_ids)[0]
            clean = vae.encode(images).latent_dist.sample() * vae.config.scaling_factor
        noise, at = torch.randn_like(clean), torch.randint(0, 1000, (2,))
        noisy = pipeline.scheduler.add_noise(clean, noise, at)
        prediction = unet(noisy, at, tokens).sample
        with torch.no_grad():
            before = reference(noisy, at, tokens).sample
        errors, before = (((value - noise) ** 2).mean((1, 2, 3)) for value in (prediction, before))
        margin = (before - errors)[0] - (before - errors)[1]
        loss = errors[0] - torch.nn.functional.logsigmoid(margin)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    seconds = {}
    for phase, piece in (("negatives", negative), ("labels", label), ("steps", step), ("validations", validate)):
        timed, count = SHARES[phase]
        start = time.perf_counter()
        for index in range(timed):
            piece(index)
        seconds[phase] = (time.perf_counter() - start) * count / timed
    return seconds
