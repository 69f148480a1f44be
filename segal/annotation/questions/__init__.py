"""What annotators are asked, by the name of the task: one file a kind of answer."""

from segal.annotation.questions.base import Question
from segal.annotation.questions.boxing import Boxing
from segal.annotation.questions.choosing import Choosing
from segal.annotation.questions.painting import Painting

__all__ = ["QUESTIONS", "Question"]

QUESTIONS: dict[str, Question] = {
    "classification": Choosing(several=False),
    "detection": Boxing(),
    "multilabel": Choosing(several=True),
    "segmentation": Painting(),
}
