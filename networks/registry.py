"""Every kind of network that can be built beside the elastic generator. Adding one is an entry here and its file."""

from __future__ import annotations

from anycost.networks import infer
from anycost.networks.context_encoder import CentralContextEncoder, ContextEncoder, PatchDiscriminator
from anycost.networks.dcgan import Dcgan
from anycost.networks.digits import DIGITS, DigitSet, MlpGan, MnistCnn
from anycost.networks.digits import SIDE as DIGIT_SIDE
from anycost.networks.discriminators import Discriminator, MultiResolutionDiscriminator
from anycost.networks.gans_n_roses import GansNRoses
from anycost.networks.inception import CLASSES, FEATURES, InceptionV3
from anycost.networks.inception import SIDE as INCEPTION_SIDE
from anycost.networks.kinds import Kind, Part, Port, Shapes, has, image
from anycost.networks.resnet import CELEBA, AttributePredictor, Encoder, Tagger
from anycost.networks.stylegan1 import StyleGan1, without_untrained
from anycost.networks.transgan import TransGan
from anycost.networks.translation import CycleGan, DiscoGan

# The elastic generator has a way of its own: sub-networks, and a budget to choose among them.
STYLEGAN2 = "stylegan2"
_LOGIT = (Port("logit", (1,)),)
_DISCRIMINATOR_KEYS = ("d_ema", "discriminator", "d", "D", "netD", "state_dict")


def _z(nz: int) -> tuple[Port]:
    return (Port("z", (nz,)),)


def _resolutions(network: MultiResolutionDiscriminator) -> list[Part]:
    g_arch = (Port("g_arch", (network.g_arch_length,), "onehot"),) if network.g_arch_length else ()
    return [Part((image("image", side), *g_arch), _LOGIT, name=str(side)) for side in network.resolutions]


def _both_ways(network: GansNRoses) -> list[Part]:
    content, style = Port("content", network.content_shape), Port("style", (network.latent_dim,))
    picture = image("image", network.size)
    return [
        Part((picture,), (content, style), lambda roses, *inputs: roses.encode(*inputs), "encode"),
        Part((content, style), (picture,), lambda roses, *inputs: roses.decode(*inputs), "decode"),
    ]


def _digit(network: DigitSet, digit: int) -> Part:
    return Part(_z(network.nz), (image("image", DIGIT_SIDE, 1),), lambda many, z: many(z, digit), str(digit))


def _steps(network: StyleGan1) -> list[Part]:
    """The mapping, and the synthesis up to every resolution from 64 px on."""
    w = Port("w", (network.code_dim,))
    found = [Part(_z(network.code_dim), (w,), lambda style, z: style.mapping(z), "mapping")]
    for step in range(min(4, network.blocks - 1), network.blocks):
        noise = [Port(f"noise_{i}", (1, 4 << i, 4 << i)) for i in range(step + 1)]
        found.append(
            Part(
                (w, *noise),
                (image("image", 4 << step),),
                lambda style, w, *noise: style.synthesis(w, noise, len(noise) - 1),
                str(4 << step),
            )
        )
    return found


def _dcgan(network: Dcgan) -> list[Part]:
    return [Part(_z(network.nz), (image("image", 64, network.channels),))]


def _is_predictor(shapes: Shapes) -> bool:
    """A ResNet-50 with the 40 attributes' 80 outputs; with other numbers of attributes a file has to say what it is."""
    trunk = has("layer4.2.conv3.weight", "fc.weight")(shapes) and "layer3.6.conv1.weight" not in shapes
    return trunk and "mean_latent" not in shapes and shapes["fc.weight"][0] == 2 * len(CELEBA)


KINDS: tuple[Kind, ...] = (
    Kind(
        name="encoder",
        title="W+ encoder (ResNet-50)",
        source="arXiv 2103.03243",
        file="encoder_anycost-ffhq-config-f.pt",
        make=Encoder,
        is_one=has("mean_latent", "layer4.2.conv3.weight", "fc.weight"),
        infer=infer.encoder,
        parts=lambda net: [Part((image("image", net.size),), (Port("w_plus", (net.n_style, net.style_dim)),))],
    ),
    Kind(
        name="attributes",
        title="Attribute predictor (ResNet-50)",
        source="arXiv 2103.03243",
        file="attribute_predictor.pt",
        make=AttributePredictor,
        is_one=_is_predictor,
        infer=infer.attributes,
        parts=lambda net: [Part((image("image", net.size),), (Port("logits", (net.fc.out_features // 2, 2)),))],
        labels=tuple(CELEBA),
    ),
    Kind(
        name="discriminator",
        title="StyleGAN2 discriminator",
        source="arXiv 1912.04958",
        file="names of Anycost GAN and rosinality",
        make=Discriminator,
        is_one=has("convs.0.0.weight", "convs.1.conv1.0.weight", "final_linear.1.weight"),
        infer=infer.discriminator,
        parts=lambda net: [Part((image("image", net.resolution),), _LOGIT)],
        arguments={"resolution": 256},
        keys=_DISCRIMINATOR_KEYS,
    ),
    Kind(
        name="multires-discriminator",
        title="Multi-resolution discriminator with g_arch",
        source="arXiv 2103.03243",
        file="names of Anycost GAN",
        make=MultiResolutionDiscriminator,
        is_one=has("convs.0.0.weight", "blocks.0.conv1.0.weight", "final_linear.1.weight"),
        infer=infer.multi_resolution_discriminator,
        parts=_resolutions,
        arguments={"resolution": 256, "n_res": 3, "modulate": True},
        keys=_DISCRIMINATOR_KEYS,
    ),
    Kind(
        name="patch-discriminator",
        title="PatchGAN with self-attention",
        source="arXiv 1611.07004, 1805.08318",
        file="names as printed",
        make=PatchDiscriminator,
        is_one=has("attention.query_conv.weight", "layer5.weight"),
        infer=lambda shapes: {},
        parts=lambda net: [Part((image("image", 64),), (Port("probability", (1, 1, 1)),))],
        keys=_DISCRIMINATOR_KEYS,
    ),
    Kind(
        name="context-encoder",
        title="Context encoder, 128 px with skips",
        source="after arXiv 1604.07379",
        file="names as printed",
        make=ContextEncoder,
        is_one=lambda shapes: has("enc5.0.weight", "dec5.0.weight")(shapes) and "enc6.0.weight" not in shapes,
        infer=infer.context_encoder,
        parts=lambda net: [Part((image("image", net.size),), (image("patch", net.patch),))],
    ),
    Kind(
        name="context-encoder-256",
        title="Context encoder, 256 px, centre",
        source="arXiv 1604.07379",
        file="names in the same manner",
        make=CentralContextEncoder,
        is_one=has("enc6.0.weight", "dec6.0.weight"),
        infer=lambda shapes: {"bottleneck": shapes["bottleneck.0.weight"][0]},
        parts=lambda net: [Part((image("image", net.size),), (image("patch", net.patch),))],
    ),
    Kind(
        name="gans-n-roses",
        title="GANs N' Roses",
        source="arXiv 2106.06561",
        file="G_A2B_ema and G_B2A_ema",
        make=GansNRoses,
        is_one=has("encoder.stem.0.0.weight", "encoder.content.0.0.weight", "mapping.0.weight"),
        infer=infer.gans_n_roses,
        parts=_both_ways,
        keys=("G_A2B_ema", "G_B2A_ema", "G_A2B", "G_B2A", "g_ema", "state_dict"),
    ),
    Kind(
        name="dcgan",
        title="DCGAN, 64 px",
        source="arXiv 1511.06434",
        file="netG of PyTorch's example",
        make=Dcgan,
        is_one=has("main.0.weight", "main.12.weight", "main.1.running_mean"),
        infer=infer.dcgan,
        parts=_dcgan,
    ),
    Kind(
        name="lsgan",
        title="LSGAN, 64 px",
        source="arXiv 1611.04076",
        file="names of DCGAN",
        make=Dcgan,
        # The weights look like DCGAN's, from which only the loss differs: a file has to say that it is one.
        is_one=lambda shapes: False,
        infer=infer.dcgan,
        parts=_dcgan,
    ),
    Kind(
        name="mnist-cnn",
        title="MNIST CNN GAN",
        source="after arXiv 1511.06434",
        file="our names",
        make=MnistCnn,
        is_one=has("fc.weight", "up1.weight", "up2.weight", "last.weight"),
        infer=infer.mnist_cnn,
        parts=lambda net: [Part(_z(net.nz), (image("image", DIGIT_SIDE, 1),))],
    ),
    Kind(
        name="mnist-digits",
        title="MNIST CNN GANs, one a digit",
        source="after arXiv 1511.06434",
        file="our names",
        make=DigitSet,
        is_one=has("digits.0.fc.weight", "digits.9.last.weight"),
        infer=lambda shapes: infer.mnist_cnn(shapes, "digits.0."),
        parts=lambda net: [_digit(net, digit) for digit in range(DIGITS)],
    ),
    Kind(
        name="mlp-gan",
        title="MLP GAN 100-256-512-1024-784",
        source="arXiv 1406.2661",
        file="our names",
        make=MlpGan,
        is_one=lambda shapes: "model.9.weight" in shapes and len(shapes.get("model.0.weight", ())) == 2,
        infer=lambda shapes: {"nz": shapes["model.0.weight"][1]},
        parts=lambda net: [Part(_z(net.nz), (image("image", DIGIT_SIDE, 1),))],
    ),
    Kind(
        name="cyclegan",
        title="CycleGAN generator, 9 blocks",
        source="arXiv 1703.10593",
        file="latest_net_G_A.pth",
        make=CycleGan,
        is_one=has("model.1.weight", "model.10.conv_block.1.weight"),
        infer=infer.cyclegan,
        parts=lambda net: [Part((image("image", 256),), (image("translated", 256),))],
    ),
    Kind(
        name="discogan",
        title="DiscoGAN generator, 64 px",
        source="arXiv 1703.05192",
        file="its authors' names",
        make=DiscoGan,
        is_one=lambda shapes: (
            has("main.0.weight", "main.3.running_mean")(shapes)
            and shapes["main.0.weight"][1:] == (3, 4, 4)
            # PyTorch's DCGAN discriminator begins alike and ends here in one channel.
            and shapes.get("main.11.weight", (0,))[0] in (100, 512)
        ),
        infer=infer.discogan,
        parts=lambda net: [Part((image("image", 64, values="unit"),), (image("translated", 64, values="unit"),))],
        arguments={"extra_layers": True},
    ),
    Kind(
        name="stylegan1",
        title="StyleGAN (AdaIN)",
        source="arXiv 1812.04948",
        file="rosinality's names",
        make=StyleGan1,
        is_one=has("generator.progression.0.conv1.input", "style.1.linear.weight_orig"),
        infer=infer.stylegan1,
        parts=_steps,
        # 256 px: the published checkpoints are of 256, 512 and 1024.
        arguments={"blocks": 7},
        keys=("g_running", "generator", "state_dict"),
        prepare=without_untrained,
    ),
    Kind(
        name="transgan",
        title="TransGAN generator, 32 px",
        source="arXiv 2102.07074",
        file="names of its authors' ViT_custom",
        make=TransGan,
        is_one=has("pos_embed_1", "l1.weight", "upsample_blocks.0.block.0.norm1.norm.weight"),
        infer=infer.transgan,
        parts=lambda net: [Part(_z(net.latent_dim), (image("image", 4 * net.width),))],
        keys=("avg_gen_state_dict", "gen_state_dict", "state_dict"),
    ),
    Kind(
        name="tagger",
        title="DeepDanbooru-style tagger",
        source="after github.com/KichangKim/DeepDanbooru",
        file="our names",
        make=Tagger,
        is_one=has("layer6.1.conv3.weight", "fc.weight"),
        infer=lambda shapes: {"tags": shapes["fc.weight"][0]},
        parts=lambda net: [
            Part((image("image", 299, values="unit"),), (Port("probabilities", (net.fc.out_features,)),)),
        ],
        arguments={"tags": 1000},
    ),
    Kind(
        name="inception",
        title="InceptionV3 for FID",
        source="arXiv 1512.00567, 1706.08500",
        file="pt_inception-2015-12-05-6726825d.pth",
        make=InceptionV3,
        is_one=has("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight"),
        infer=lambda shapes: {},
        parts=lambda net: [
            Part((image("image", INCEPTION_SIDE),), (Port("features", (FEATURES,)), Port("logits", (CLASSES,)))),
        ],
    ),
)
BY_NAME = {kind.name: kind for kind in KINDS}


def identify(shapes: Shapes) -> Kind | None:
    """The kind that tensors of these names and shapes are of; None for an unknown kind and for a StyleGAN2 generator."""
    return next((kind for kind in KINDS if kind.is_one(shapes)), None)
