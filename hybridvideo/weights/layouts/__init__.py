"""The foreign layouts, one file per code base; `LAYOUTS` lists them all and is tried from top to bottom."""

from __future__ import annotations

from hybridvideo.weights.layouts.hybrid_vit import CONV_VIT, HYBRID_VITS
from hybridvideo.weights.layouts.image_botnet import IMAGE_BOTNET
from hybridvideo.weights.layouts.image_coatnet import IMAGE_COATNET
from hybridvideo.weights.layouts.image_levit import IMAGE_LEVIT
from hybridvideo.weights.layouts.image_maxvit import IMAGE_MAXVIT
from hybridvideo.weights.layouts.image_mobilevit import IMAGE_MOBILEVIT
from hybridvideo.weights.layouts.image_resnet import IMAGE_RESNET_LAYOUTS
from hybridvideo.weights.layouts.image_swin import IMAGE_SWIN, IMAGE_SWIN_TIMM, IMAGE_SWIN_TORCHVISION
from hybridvideo.weights.layouts.image_vit import INTO_TIMESFORMER, INTO_VIDEOMAE
from hybridvideo.weights.layouts.layout import Layout
from hybridvideo.weights.layouts.pytorchvideo import PYTORCHVIDEO_LAYOUTS
from hybridvideo.weights.layouts.timesformer import TIMESFORMER, TIMESFORMER_HUGGING_FACE
from hybridvideo.weights.layouts.torchvision_video import TORCHVISION_LAYOUTS
from hybridvideo.weights.layouts.uniformer import MMACTION_UNIFORMER, UNIFORMER
from hybridvideo.weights.layouts.video_swin import MMACTION_0, MMACTION_1, TORCHVISION_SWIN3D
from hybridvideo.weights.layouts.videomae import VIDEOMAE_LAYOUTS

LAYOUTS: tuple[Layout, ...] = (
    TORCHVISION_SWIN3D,
    MMACTION_1,
    MMACTION_0,
    IMAGE_SWIN_TIMM,
    IMAGE_SWIN,
    IMAGE_SWIN_TORCHVISION,
    UNIFORMER,
    MMACTION_UNIFORMER,
    *VIDEOMAE_LAYOUTS,
    *PYTORCHVIDEO_LAYOUTS,
    *TORCHVISION_LAYOUTS,
    *IMAGE_RESNET_LAYOUTS,
    IMAGE_COATNET,
    IMAGE_MAXVIT,
    IMAGE_LEVIT,
    IMAGE_BOTNET,
    IMAGE_MOBILEVIT,
    TIMESFORMER,
    TIMESFORMER_HUGGING_FACE,
    CONV_VIT,
    *INTO_TIMESFORMER,  # late: authors of video models took timm's names too
    *HYBRID_VITS,  # a ViT whose model is not named is taken for TimeSformer if it fits, else for these
    *INTO_VIDEOMAE,
)
