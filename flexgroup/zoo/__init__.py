"""Reference networks and data sets."""

from flexgroup.zoo._cifar_files import read_cifar10 as read_cifar10
from flexgroup.zoo._cifar_resnet import CifarResNet as CifarResNet
from flexgroup.zoo._cifar_resnet import resnet20 as resnet20
from flexgroup.zoo._cifar_resnet import resnet32 as resnet32
from flexgroup.zoo._cifar_resnet import resnet44 as resnet44
from flexgroup.zoo._cifar_resnet import resnet56 as resnet56
from flexgroup.zoo._cifar_resnet import resnet110 as resnet110
from flexgroup.zoo._data import ImageData as ImageData
from flexgroup.zoo._data import load_data as load_data
from flexgroup.zoo._digits_net import DigitsNet as DigitsNet
from flexgroup.zoo._digits_net import digits_net as digits_net
from flexgroup.zoo._models import MODELS as MODELS
from flexgroup.zoo._models import Entry as Entry
from flexgroup.zoo._models import build as build
from flexgroup.zoo._models import input_shape as input_shape
from flexgroup.zoo._weights import check_finite as check_finite
from flexgroup.zoo._weights import load_weights as load_weights
from flexgroup.zoo._weights import read_metadata as read_metadata
from flexgroup.zoo._weights import read_weights as read_weights
from flexgroup.zoo._weights import save_weights as save_weights
from flexgroup.zoo._weights import write_atomically as write_atomically
