"""What a comparison came to: arms times seeds of finished runs in, tables out."""

from segal.comparison.analysis import Question, analyse, statement
from segal.comparison.arms import Arm, Curve, gather
from segal.comparison.tables import Table, write_tables

__all__ = ["Arm", "Curve", "Question", "Table", "analyse", "gather", "statement", "write_tables"]
