"""Acquisition strategies: one file each, which also says the strategy's name."""

from segal.registry import Registry
from segal.strategies.badge import Badge
from segal.strategies.bald import BALD
from segal.strategies.base import Strategy
from segal.strategies.bvsb import BestVersusSecondBest
from segal.strategies.cald import ConsistencyBased
from segal.strategies.cdal import CDAL
from segal.strategies.clasp import ClassStratifiedPower
from segal.strategies.coreset import CoreSet
from segal.strategies.drop_query import DropQuery
from segal.strategies.enms_divproto import DiversePrototypes
from segal.strategies.entropy import Entropy
from segal.strategies.err_reduction import ErrorReduction
from segal.strategies.error_change import ErrorChange
from segal.strategies.error_change_first_order import ErrorChangeFirstOrder
from segal.strategies.grad_similarity import GradientSimilarity
from segal.strategies.gradnorm import GradNorm
from segal.strategies.isal import InfluenceSelection
from segal.strategies.learning_loss import LearningLoss
from segal.strategies.least_confidence import LeastConfidence
from segal.strategies.localization_stability import LeastLocalizationStability
from segal.strategies.margin import Margin
from segal.strategies.max_herding import MaxHerding
from segal.strategies.mc_dropout import MCDropout
from segal.strategies.mial import MultipleInstance
from segal.strategies.pixbal import PixelwiseBalance
from segal.strategies.prob_cover import ProbCover
from segal.strategies.ralif import ReliableInfluence
from segal.strategies.random import Random
from segal.strategies.ta_vaal import TaskAwareVariationalAdversarial
from segal.strategies.typiclust import TypiClust
from segal.strategies.uherding import UncertaintyHerding
from segal.strategies.uwe import UncertaintyWeightedEmbeddings
from segal.strategies.vaal import VariationalAdversarial

STRATEGIES: Registry[type[Strategy]] = Registry("strategy", plugins="segal.strategies")
_BUILT_IN: tuple[type[Strategy], ...] = (
    Random,
    Entropy,
    LeastConfidence,
    Margin,
    BestVersusSecondBest,
    CoreSet,
    UncertaintyWeightedEmbeddings,
    LearningLoss,
    VariationalAdversarial,
    TaskAwareVariationalAdversarial,
    Badge,
    GradNorm,
    MCDropout,
    BALD,
    CDAL,
    ErrorChangeFirstOrder,
    InfluenceSelection,
    GradientSimilarity,
    ReliableInfluence,
    ErrorChange,
    ErrorReduction,
    LeastLocalizationStability,
    ConsistencyBased,
    DiversePrototypes,
    MultipleInstance,
    PixelwiseBalance,
    ClassStratifiedPower,
    MaxHerding,
    UncertaintyHerding,
    TypiClust,
    ProbCover,
    DropQuery,
)
for _kind in _BUILT_IN:
    STRATEGIES.register(_kind.name)(_kind)
