"""Diffusers folders: small pipelines made and saved here, their schedulers' steps, adapters, and the way back."""

import warnings
from dataclasses import replace

import pytest
import torch

from policyopt.compose import Program, Role, Stage, Term
from policyopt.engines.plain import generate
from policyopt.methods.grpo import grpo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops.random import new_keys
from policyopt.policies.denoisers import Conditions
from policyopt.policies.denoising import Denoiser
from policyopt.policies.pipelines import (
    DenoiserLora,
    PipelineError,
    PipelineNetwork,
    chain_of,
    load_adapters,
    load_pipeline,
    save_pipeline,
)
from policyopt.run import Run
from policyopt.sampling.branches import Branched
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW
from policyopt.worlds.denoising import DenoisingWorld
from policyopt.worlds.drawings import of_images
from support import close

diffusers = None


@pytest.fixture(scope="module", autouse=True)
def _library():
    """Imported when the first of these tests runs, not when tests are collected: it takes seconds."""
    global diffusers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library warns of when it is imported is not ours
        diffusers = pytest.importorskip("diffusers")


def unet(classes=None, channels=3, **options):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
        **options,
    )


def ddim(**options):
    return diffusers.DDIMScheduler(num_train_timesteps=1000, **options)


def saved(folder, model, scheduler):
    """A pipeline folder without the library's own pipeline class, as for a class-conditional model."""
    pipeline = diffusers.DDIMPipeline(unet=model, scheduler=scheduler)
    pipeline.save_pretrained(folder)
    return folder


def rolled(policy, world, count, seed=0):
    batch = world.start(world.tasks(torch.arange(count) % world.size))
    return generate(policy, world, batch, new_keys(count, torch.Generator().manual_seed(seed)), 1.0, 0)


# -- schedulers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "options",
    [
        {"clip_sample": False},
        {"clip_sample": True, "clip_sample_range": 0.8},
        {"clip_sample": False, "beta_schedule": "scaled_linear", "set_alpha_to_one": False, "steps_offset": 1},
        {"clip_sample": False, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"clip_sample": False, "prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"},
    ],
)
def test_steps_are_those_of_the_ddim_scheduler(eta, options):
    scheduler, chain = ddim(**options), chain_of(ddim(**options), 10, eta)
    scheduler.set_timesteps(10)
    assert chain.levels.time.tolist() == scheduler.timesteps.tolist()
    rng = torch.Generator().manual_seed(0)
    for k, time in enumerate(scheduler.timesteps):
        x, u, xi = (torch.randn(4, 6, generator=rng) for _ in range(3))
        step = chain.transition(lambda latent, t, u=u: u, x, torch.full((4,), k))
        theirs = scheduler.step(u, time, x, eta=eta, variance_noise=xi if eta else None).prev_sample
        size = float(theirs.abs().max())
        close(step.mean + step.std * xi, theirs, 1e-5 * max(1.0, size), f"step {k}")


@pytest.mark.parametrize("clip", [True, False])
def test_steps_are_those_of_the_ddpm_scheduler(clip):
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, clip_sample=clip)
    chain = chain_of(scheduler, 10)
    scheduler.set_timesteps(10)
    rng = torch.Generator().manual_seed(0)
    for k, time in enumerate(scheduler.timesteps):
        x, u = (torch.randn(4, 6, generator=rng) for _ in range(2))
        step = chain.transition(lambda latent, t, u=u: u, x, torch.full((4,), k))
        noise = torch.Generator().manual_seed(7)
        theirs = scheduler.step(u, time, x, generator=noise).prev_sample
        xi = torch.randn(4, 6, generator=torch.Generator().manual_seed(7))
        size = float(theirs.abs().max())
        close(step.mean + step.std * xi, theirs, 1e-5 * max(1.0, size), f"step {k}")


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"use_karras_sigmas": True}])
def test_steps_are_those_of_the_flow_scheduler(options):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    chain = chain_of(scheduler, 8, eta=0.0)
    scheduler.set_timesteps(8)
    close(chain.levels.time, scheduler.timesteps, 1e-3)
    rng = torch.Generator().manual_seed(0)
    for k, time in enumerate(scheduler.timesteps):
        x, u = (torch.randn(4, 6, generator=rng) for _ in range(2))
        step = chain.transition(lambda latent, t, u=u: u, x, torch.full((4,), k))
        close(step.mean, scheduler.step(u, time, x).prev_sample, 1e-5)
    noisy = chain_of(scheduler, 8, eta=0.5)
    assert (noisy.std[:-1] > 0).all()


def test_training_noises_as_the_schedulers_do():
    rng = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(4, 6, generator=rng) for _ in range(2))
    scheduler = ddim()
    time = torch.tensor([0, 10, 500, 999])
    noised, target, _ = chain_of(scheduler, 10).target(clean, noise, time.double())
    close(noised, scheduler.add_noise(clean, noise, time), 1e-5)
    close(target, noise)
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    chain = chain_of(flow, 10, 0.0)
    flow.set_timesteps(10)
    noised, target, _ = chain.target(clean, noise, flow.timesteps[:4])
    close(noised, flow.scale_noise(clean, flow.timesteps[:4], noise), 1e-5)
    close(target, noise - clean)


@pytest.mark.parametrize(
    ("make", "steps", "eta", "message"),
    [
        (lambda: diffusers.EulerDiscreteScheduler(), 10, 1.0, "no Gaussian steps"),
        (lambda: ddim(thresholding=True), 10, 1.0, "thresholding"),
        (lambda: ddim(timestep_spacing="linspace"), 10, 1.0, "do not meet"),
        (lambda: diffusers.DDPMScheduler(variance_type="fixed_large"), 10, 1.0, "fixed_large"),
        (lambda: diffusers.DDPMScheduler(), 10, 0.5, "eta 0.5"),
        (lambda: diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), 10, 0.0, "stochastic_sampling"),
        (lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), 10, 0.0, "invert_sigmas"),
    ],
)
def test_schedulers_that_can_not_be_a_chain(make, steps, eta, message):
    with pytest.raises(PipelineError, match=message):
        chain_of(make(), steps, eta)


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_folder_samples_as_the_librarys_own_pipeline(tmp_path):
    folder = saved(tmp_path / "pipe", unet(), ddim())
    pipeline = load_pipeline(folder)
    assert pipeline.network.shape == (3, 8, 8)
    assert pipeline.network.conditions == Conditions()
    policy = pipeline.policy(steps=5, eta=0.0)
    batch = rolled(policy, DenoisingWorld(policy.chain.std, policy.dims, 1), 2)
    theirs = diffusers.DDIMPipeline.from_pretrained(folder)
    theirs.scheduler.set_timesteps(5)
    images = batch.step["_next"][:, 0].view(2, 3, 8, 8)
    with torch.no_grad():
        for time in theirs.scheduler.timesteps:
            images = theirs.scheduler.step(theirs.unet(images, time).sample, time, images, eta=0.0).prev_sample
    close(pipeline.decode(batch.row["_latent"]), images, 1e-4)


def test_trap_18_dropout_is_off_even_in_training_mode():
    """A model's own dropout; ratios compare policies, not random parts of them."""
    network = PipelineNetwork(unet(dropout=0.5)).train()
    policy = Denoiser(network, chain_of(ddim(clip_sample=False), 3)).train()
    batch = rolled(policy, DenoisingWorld(policy.chain.std, policy.dims, 1), 2)
    assert not any(part.training for part in network.modules())
    first, again = (policy.score(batch).logp[batch.trained] for _ in range(2))
    assert torch.equal(first, again)
    close((first - batch.step["behaviour"][batch.trained]).exp(), torch.ones_like(first), 1e-4)
    network.model.train()  # the configured dropout is real
    assert not torch.equal(policy.score(batch).logp[batch.trained], first)


def test_training_adapters_and_the_way_back(tmp_path):
    """GRPO on adapters alone moves the reward's model; the folder opens in the library with the adapters merged."""
    folder = saved(tmp_path / "pipe", unet(), ddim())
    pipeline = load_pipeline(folder)
    policy = pipeline.policy(steps=3, eta=1.0, lora=DenoiserLora(rank=2))
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert any("to_q" in name for name in trained)
    assert any("conv1" in name for name in trained)
    before = {name: p.clone() for name, p in policy.named_parameters()}
    world = DenoisingWorld(policy.chain.std, policy.dims, 2, of_images(lambda x: x.mean((1, 2, 3)), (3, 8, 8)))
    start = rolled(policy, world, 2)
    change = policy.score(start).logp - start.step["behaviour"]
    close(change[start.trained], torch.zeros(int(start.trained.sum())), 1e-4)
    method = replace(
        grpo,
        selection=Selection(count=2),
        sampling=Branched(1, 4),
        objective=(Term("policy", ClippedSurrogate(0.2, 0.2), TokenMean()),),
        constraint=(),
        roles={"old": Role(when="collected")},
        models={},
        update=GradientSteps({"policy": AdamW(0.02)}),
    )
    run = Run({"policy": policy}, world, generate)
    for _ in rounds(run, Program((Stage(method, 2),))):
        pass
    for name, parameter in policy.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    written = save_pipeline(pipeline, policy, tmp_path / "out")
    images, time = torch.randn(2, 3, 8, 8), torch.tensor([10.0, 500.0])
    with torch.no_grad():
        mine = policy.network.model(images, time).sample
        opened = diffusers.DDIMPipeline.from_pretrained(written)
        close(opened.unet(images, time).sample, mine, 1e-5)
        base = load_pipeline(folder).network.model
        assert (base(images, time).sample - mine).abs().max() > 1e-4
        load_adapters(base, written / "adapter")
        close(base(images, time).sample, mine, 1e-6)
        again = load_pipeline(written).policy(3).network.model
        close(again(images, time).sample, mine, 1e-5)
    # Training goes on after saving: nothing was merged in place.
    assert [name for name, p in policy.named_parameters() if p.requires_grad] == trained


def test_classes_and_guidance(tmp_path):
    folder = saved(tmp_path / "pipe", unet(classes=4), ddim())
    pipeline = load_pipeline(folder, unconditional=3)
    policy = pipeline.policy(steps=3, guidance=2.0)
    x, time, label = torch.randn(2, 192), torch.tensor([5.0, 700.0]), torch.tensor([0, 2])
    model, images = pipeline.network.model, x.view(2, 3, 8, 8)
    with torch.no_grad():
        given = model(images, time, class_labels=label).sample
        none = model(images, time, class_labels=torch.tensor([3, 3])).sample
        close(policy.predict(x, time, label), (none + 2 * (given - none)).flatten(1), 1e-5)
    world = DenoisingWorld(policy.chain.std, policy.dims, 3, conditions=torch.arange(3))
    batch = rolled(policy, world, 3)
    change = policy.score(batch).logp - batch.step["behaviour"]
    close(change[batch.trained], torch.zeros(int(batch.trained.sum())), 1e-4)


def test_transformers_and_text_conditions():
    torch.manual_seed(0)
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=2, num_layers=1, sample_size=8, patch_size=2,
        num_embeds_ada_norm=5, norm_num_groups=2,
    )  # fmt: skip
    network = PipelineNetwork(dit)
    assert network.shape == (2, 8, 8)
    assert network.conditions.classes == 5
    out = network(torch.randn(2, 128), torch.tensor([5.0, 10.0]), torch.tensor([0, 5]))
    assert out.shape == (2, 128)
    text = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, layers_per_block=1, block_out_channels=(8, 16),
        norm_num_groups=4, attention_head_dim=8, cross_attention_dim=6,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    network = PipelineNetwork(text)
    told = torch.randn(2, 3, 6)
    out = network(torch.randn(2, 128), torch.tensor([5.0, 10.0]), told)
    assert out.shape == (2, 128)
    assert network.conditions.features == 6


@pytest.mark.parametrize("shift", [None, 0.3])
def test_latent_pipelines_decode(tmp_path, shift):
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=2, block_out_channels=(4, 8), norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.5,
        shift_factor=shift,
    )  # fmt: skip
    model = unet(channels=2)
    folder = tmp_path / "latent"
    model.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    ddim().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(
        '{"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"], "vae": ["diffusers", "AutoencoderKL"], '
        '"scheduler": ["diffusers", "DDIMScheduler"]}'
    )
    pipeline = load_pipeline(folder)
    latents = torch.randn(2, 128)
    with torch.no_grad():
        close(pipeline.decode(latents), vae.decode(latents.view(2, 2, 8, 8) / 0.5 + (shift or 0)).sample, 1e-5)
    written = save_pipeline(pipeline, pipeline.policy(3), tmp_path / "again")
    close(load_pipeline(written).decode(latents), pipeline.decode(latents), 1e-6)


def test_folders_that_are_no_pipeline(tmp_path):
    with pytest.raises(PipelineError, match=r"no model_index\.json"):
        load_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "X", "vae": ["diffusers", "AutoencoderKL"]}')
    with pytest.raises(PipelineError, match=r"holds \['vae'\]"):
        load_pipeline(tmp_path)
    with pytest.raises(PipelineError, match="not supported"):
        PipelineNetwork(diffusers.UNet1DModel(block_out_channels=(8, 8, 8), layers_per_block=1, sample_size=16))
    with pytest.raises(PipelineError, match="no layer ends in"):
        load_pipeline(saved(tmp_path / "p", unet(), ddim())).policy(3, lora=DenoiserLora(target_modules=("nothing",)))
