"""Acquisition strategies: one file each, and one line each in this registry."""

from segal.registry import Registry
from segal.strategies.badge import Badge
from segal.strategies.bald import BALD
from segal.strategies.base import Strategy
from segal.strategies.bvsb import BestVersusSecondBest
from segal.strategies.cdal import CDAL
from segal.strategies.coreset import CoreSet
from segal.strategies.entropy import Entropy
from segal.strategies.err_reduction import ErrorReduction
from segal.strategies.error_change import ErrorChange
from segal.strategies.error_change_first_order import ErrorChangeFirstOrder
from segal.strategies.grad_similarity import GradientSimilarity
from segal.strategies.gradnorm import GradNorm
from segal.strategies.isal import InfluenceSelection
from segal.strategies.learning_loss import LearningLoss
from segal.strategies.least_confidence import LeastConfidence
from segal.strategies.margin import Margin
from segal.strategies.mc_dropout import MCDropout
from segal.strategies.ralif import ReliableInfluence
from segal.strategies.random import Random
from segal.strategies.uwe import UncertaintyWeightedEmbeddings
from segal.strategies.vaal import VariationalAdversarial

STRATEGIES: Registry[type[Strategy]] = Registry("strategy")
STRATEGIES.register("random")(Random)
STRATEGIES.register("entropy")(Entropy)
STRATEGIES.register("least_confidence")(LeastConfidence)
STRATEGIES.register("margin")(Margin)
STRATEGIES.register("bvsb")(BestVersusSecondBest)
STRATEGIES.register("coreset")(CoreSet)
STRATEGIES.register("uwe")(UncertaintyWeightedEmbeddings)
STRATEGIES.register("learning_loss")(LearningLoss)
STRATEGIES.register("vaal")(VariationalAdversarial)
STRATEGIES.register("badge")(Badge)
STRATEGIES.register("gradnorm")(GradNorm)
STRATEGIES.register("mc_dropout")(MCDropout)
STRATEGIES.register("bald")(BALD)
STRATEGIES.register("cdal")(CDAL)
STRATEGIES.register("error_change_first_order")(ErrorChangeFirstOrder)
STRATEGIES.register("isal")(InfluenceSelection)
STRATEGIES.register("grad_similarity")(GradientSimilarity)
STRATEGIES.register("ralif")(ReliableInfluence)
STRATEGIES.register("error_change")(ErrorChange)
STRATEGIES.register("err_reduction")(ErrorReduction)
