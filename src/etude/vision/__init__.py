"""Pictures: data, models and the learner that puts them together."""

from __future__ import annotations

from etude.vision.affine import affine as affine
from etude.vision.arrays import from_arrays as from_arrays
from etude.vision.augment import compose as compose
from etude.vision.augment import flip_and_shift as flip_and_shift
from etude.vision.cnn import LessonCNN as LessonCNN
from etude.vision.color import color_jitter as color_jitter
from etude.vision.data import labeled as labeled
from etude.vision.data import load as load
from etude.vision.erase import random_erasing as random_erasing
from etude.vision.gradcam import grad_cam as grad_cam
from etude.vision.interpret import draw_confused as draw_confused
from etude.vision.interpret import draw_top_losses as draw_top_losses
from etude.vision.learner import learner as learner
from etude.vision.models import create_model as create_model
from etude.vision.preprocess import ImagePreprocess as ImagePreprocess
from etude.vision.progressive import ProgressiveResizing as ProgressiveResizing
from etude.vision.views import Views as Views
from etude.vision.windows import MiddleCrop as MiddleCrop
from etude.vision.windows import RandomResizedCrop as RandomResizedCrop
from etude.vision.xresnet import XResNet as XResNet
from etude.vision.xresnet import xresnet18 as xresnet18
from etude.vision.xresnet import xresnet34 as xresnet34
from etude.vision.xresnet import xresnet50 as xresnet50
from etude.vision.xresnet import xresnet101 as xresnet101
from etude.vision.xresnet import xresnet152 as xresnet152
