#!/usr/bin/env bash
# VGG-16, CIFAR-100, 10 % random images: the long budget on another architecture, CoUn's protocol.
#
# EXPECTED (UA RA TA MIA, 10 trials; report.py --published KEY has every row and its source):
#   Retrain  33.23 99.75 67.07 40.69   coun_cifar100_10_vgg16
# and the Avg. Gaps 3.56 (FT), 2.15 (NegGrad+), 3.27 (l1-sparse), 3.13 (SalUn). SalUn's own table of VGG-16 was not seen. Tolerance, time, what
# moves the numbers, values: as in recipes/long_budget.sh, which this runs (preset long_budget). Which VGG-16 CoUn's is, with or without BatchNorm,
# is not known to us; vgg16_bn is assumed. This recipe has not run on a GPU.
# FAST=1: 8x8 digits, ResNet-20s, one epoch, one seed, on a CPU: VGG-16 needs images of 16 pixels. It shows that every command runs;
# its numbers mean nothing.
set -euo pipefail
cd "$(dirname "$0")"

if [ "${FAST:-0}" != 1 ]; then
    : "${DATASET:=cifar100}" "${ARCH:=vgg16_bn}" "${DIR:=runs/vgg16}"
fi
export DATASET=${DATASET:-digits} ARCH=${ARCH:-resnet20s} DIR=${DIR:-runs/fast_vgg16} PUBLISHED=${PUBLISHED:-coun_cifar100_10_vgg16}
exec bash long_budget.sh
