"""Which networks of other people's collections compile: one of each family of timm, torchvision and transformers.

    pip install timm torchvision transformers
    python experiments/families.py timm:mobilevitv2_050 torchvision:densenet121   # without names: all of NETWORKS
    python experiments/families.py --table

Each is compared with torch. Weights are random; batch norms get statistics; encoders of transformers have few layers.
Nothing is downloaded. One JSON file, written after every network, so that a run that was stopped goes on.
"""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn

import flexgroup
from flexgroup import FlexgroupError
from flexgroup.report import this_machine
from flexgroup.zoo import write_atomically

OUT = Path(__file__).resolve().parent.parent / "results" / "families.json"
FEW = {"num_hidden_layers": 2}
TINY = {"hidden_size": 96, "num_attention_heads": 3, "num_hidden_layers": 4}
STAGES = {"depths": [1, 1, 2, 1]}
NECK = {"neck_hidden_sizes": [12, 24, 48, 48], "fusion_hidden_size": 32}
RESNET = {"model_type": "resnet", "depths": [1, 1, 1, 1], "out_features": ["stage4"]}
DINOV2 = {"model_type": "dinov2", "image_size": 224, "patch_size": 14, "out_indices": [1, 2, 3, 4]}
TRANSFORMERS: dict[str, dict[str, Any]] = {  # options of the configuration
    "ViTForImageClassification": FEW,
    "DeiTForImageClassification": FEW,
    "BeitForImageClassification": {**FEW, "use_relative_position_bias": True},
    "Data2VecVisionForImageClassification": FEW,
    "Dinov2ForImageClassification": FEW,
    "DINOv3ViTModel": FEW,
    "DINOv3ConvNextModel": STAGES,
    "CLIPVisionModel": FEW,
    "SiglipVisionModel": FEW,
    "SwinForImageClassification": {"depths": [2, 2, 2, 2]},
    "Swinv2ForImageClassification": {"depths": [2, 2, 2, 2]},
    "ConvNextForImageClassification": STAGES,
    "ConvNextV2ForImageClassification": STAGES,
    "MobileNetV1ForImageClassification": {},
    "MobileNetV2ForImageClassification": {},
    "MobileNetV2ForSemanticSegmentation": {},
    "MobileViTForImageClassification": {},
    "MobileViTForSemanticSegmentation": {},
    "MobileViTV2ForImageClassification": {},
    "EfficientNetForImageClassification": {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
    "ResNetForImageClassification": {"depths": [1, 1, 1, 1]},
    "RegNetForImageClassification": STAGES,
    "SegformerForSemanticSegmentation": {},
    "PvtForImageClassification": {},
    "PvtV2ForImageClassification": {},
    "LevitForImageClassification": {},
    "CvtForImageClassification": {},
    "PoolFormerForImageClassification": {},
    "FocalNetForImageClassification": {},
    "HieraForImageClassification": STAGES,
    "TextNetForImageClassification": {},
    "YolosForObjectDetection": {**FEW, "image_size": [224, 224]},
    "DetrForObjectDetection": {"backbone_config": RESNET, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 10},
    "DPTForDepthEstimation": {**TINY, **NECK, "intermediate_size": 192, "backbone_out_indices": [0, 1, 2, 3]},
    "DepthAnythingForDepthEstimation": {
        **NECK,
        "reassemble_hidden_size": 96,
        "backbone_config": {**TINY, **DINOV2, "reshape_hidden_states": False},
    },
    "GLPNForDepthEstimation": {},
    "VitPoseForPoseEstimation": {"backbone_config": {**FEW, "model_type": "vitpose_backbone"}},
    "SuperPointForKeypointDetection": {},
    "Swin2SRForImageSuperResolution": {"depths": [2, 2], "num_heads": [6, 6]},
    "SamVisionModel": {**FEW, "image_size": 256, "global_attn_indexes": [1]},
    "Wav2Vec2ForCTC": FEW,
    "HubertModel": FEW,
    "ASTForAudioClassification": FEW,
}
SHAPES = {  # of one input, where it is not an image of 224 x 224
    "inception_v3": (3, 299, 299),
    "MobileViTForImageClassification": (3, 256, 256),
    "MobileViTForSemanticSegmentation": (3, 256, 256),
    "MobileViTV2ForImageClassification": (3, 256, 256),
    "DPTForDepthEstimation": (3, 384, 384),
    "GLPNForDepthEstimation": (3, 256, 256),
    "VitPoseForPoseEstimation": (3, 256, 192),
    "Swin2SRForImageSuperResolution": (3, 64, 64),
    "SamVisionModel": (3, 256, 256),
    "Wav2Vec2ForCTC": (8000,),
    "HubertModel": (8000,),
    "ASTForAudioClassification": (1024, 128),
}
NETWORKS = {
    "timm": (
        "mobilenetv4_conv_small mobilenetv3_small_050 efficientnet_lite0 tf_efficientnetv2_b0 mixnet_s "
        "mnasnet_small fbnetc_100 hardcorenas_a tinynet_e lcnet_050 ghostnet_050 ghostnetv2_100 "
        "ghostnetv3_050 rexnet_100 mobileone_s0 repvgg_a0 repvit_m0_9 starnet_s1 fastvit_t8 "
        "efficientformer_l1 mobilevit_xxs mobilevitv2_050 edgenext_xx_small efficientvit_b0 efficientvit_m0 "
        "levit_128s shvit_s1 convnext_atto convnextv2_atto inception_next_atto poolformer_s12 hgnetv2_b0 "
        "regnety_002 res2net50_14w_8s resnest14d skresnet18 dla34 ese_vovnet19b_slim hrnet_w18_small "
        "selecsls42 xception41 nf_regnet_b0 cspresnet50 dpn48b rdnet_tiny convmixer_768_32 tresnet_m "
        "eca_resnet33ts gcresnet33ts halonet26t botnet26t_256 lambda_resnet26t mambaout_femto visformer_tiny "
        "pvt_v2_b0 pit_ti_224 deit_tiny_patch16_224 cait_xxs24_224 xcit_nano_12_p16_224 twins_svt_small "
        "crossvit_tiny_240 coatnet_pico_rw_224 tiny_vit_5m_224 swin_tiny_patch4_window7_224 "
        "swinv2_tiny_window8_256 focalnet_tiny_srf davit_tiny gcvit_xxtiny volo_d1_224 eva02_tiny_patch14_224 "
        "mixer_s32_224 resmlp_12_224 gmlp_ti16_224"
    ),
    "torchvision": (
        "alexnet densenet121 efficientnet_b0 googlenet inception_v3 mnasnet0_5 mobilenet_v2 "
        "mobilenet_v3_small regnet_x_400mf resnet18 resnext50_32x4d shufflenet_v2_x1_0 squeezenet1_0 vgg11_bn "
        "vit_b_32 maxvit_t swin_t swin_v2_t lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large "
        "fcn_resnet50"
    ),
    "transformers": " ".join(TRANSFORMERS),
}

console = Console()


def build(network: str) -> tuple[nn.Module, torch.Tensor]:
    """The network in eval mode and one image of the size it was made for."""
    collection, _, name = network.partition(":")
    options: dict[str, Any]
    torch.manual_seed(0)
    shape = SHAPES.get(name, (3, 224, 224))
    if collection == "timm":
        model = importlib.import_module("timm").create_model(name, pretrained=False)
        shape = model.default_cfg["input_size"]
    elif collection == "torchvision":
        options = {"weights": None}
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False
        if name.startswith(("lraspp", "deeplab", "fcn")):
            options["weights_backbone"] = None
        model = importlib.import_module("torchvision.models").get_model(name, **options)
    elif collection == "transformers" and name in TRANSFORMERS:
        options = TRANSFORMERS[name]
        kind = getattr(importlib.import_module("transformers"), name)
        model = kind(kind.config_class(**options))
        for parameter in model.parameters():  # transformers starts so small that a bias may be all that is left
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="linear")
    else:
        raise FlexgroupError(f"{network!r} is not known; write timm:NAME, torchvision:NAME or transformers:CLASS")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    for parameter in model.parameters():
        if not parameter.any():  # layers that begin as nothing would hide what comes before them
            nn.init.normal_(parameter, std=0.02)
    return model.eval(), torch.randn(1, *shape)


def compiled(network: str) -> dict[str, Any]:
    """What came of one network: the difference to torch, or why it was refused."""
    model, x = build(network)
    began = time.perf_counter()
    try:
        model_here = flexgroup.compile(model, (x,))
    except FlexgroupError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        return {"compiles": False, "why": lines}
    seconds = time.perf_counter() - began
    kernels = len(model_here.plan.kernels())
    difference = model_here.error
    model_here.close()
    return {"compiles": True, "difference": difference, "seconds": round(seconds, 1), "kernels": kernels}


def main(
    networks: Annotated[
        list[str] | None, typer.Argument(help="timm:NAME, torchvision:NAME or transformers:CLASS.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Print what is known, and compile nothing.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also those that have a result.")] = False,
    out: Annotated[Path, typer.Option("--out", help="The results, as JSON.")] = OUT,
) -> None:
    """Compile every network that has no result yet, and write what came of it."""
    known: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    results: dict[str, Any] = known.get("networks", {})
    if table:
        print(as_table(results))
        return
    for network in networks or [f"{group}:{name}" for group, names in NETWORKS.items() for name in names.split()]:
        if network in results and not again:
            continue
        try:
            results[network] = compiled(network)
        except Exception as error:  # whatever a collection may raise is a result too
            results[network] = {"compiles": False, "why": [f"{type(error).__name__}: {error}"[:300]]}
        console.print(network, results[network], highlight=False)
        versions = {"flexgroup": flexgroup.__version__, "torch": torch.__version__}
        document = {"networks": results, "versions": versions, "machine": this_machine().cpu}
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, (json.dumps(document, indent=1) + "\n").encode())


def as_table(results: dict[str, Any]) -> str:
    """The results in Markdown: what compiles, and the reasons for what does not."""
    good = {name: result for name, result in results.items() if result["compiles"]}
    lines = [f"{len(good)} of {len(results)} compile.", "", "| does not compile | why |", "|---|---|"]
    for name, result in results.items():
        if not result["compiles"]:
            first = result["why"][0].replace("|", "/")
            lines.append(f"| {name} | {first} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
