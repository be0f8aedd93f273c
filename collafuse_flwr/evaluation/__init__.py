"""Measures of quality (distances, coverage, train-synthetic-test-real) and of cost, on plain tensors."""

from collafuse_flwr.evaluation.classifier import ImageClassifier, accuracy, train_classifier
from collafuse_flwr.evaluation.cost import forward_flops, sampling_flops, training_flops
from collafuse_flwr.evaluation.coverage import Coverage, measure_coverage
from collafuse_flwr.evaluation.distances import KernelDistance, frechet_distance, kernel_distance
from collafuse_flwr.evaluation.features import PixelFeatures, extract_features
from collafuse_flwr.evaluation.pretrained import PretrainedFeatures, pretrained_networks
from collafuse_flwr.evaluation.tstr import train_synthetic_test_real
from collafuse_flwr.evaluation.utility import Utility, dataset_score, measure_utility

__all__ = [
    "Coverage",
    "ImageClassifier",
    "KernelDistance",
    "PixelFeatures",
    "PretrainedFeatures",
    "Utility",
    "accuracy",
    "dataset_score",
    "extract_features",
    "forward_flops",
    "frechet_distance",
    "kernel_distance",
    "measure_coverage",
    "measure_utility",
    "pretrained_networks",
    "sampling_flops",
    "train_classifier",
    "train_synthetic_test_real",
    "training_flops",
]
