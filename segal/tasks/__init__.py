"""What networks are asked: one folder a task, and one line each in this registry."""

from segal.data.layout import known_layout
from segal.errors import SegalError
from segal.models.spec import ANSWERS, ModelSpec
from segal.models.wrapped import WRAPPERS
from segal.registry import Registry
from segal.tasks.base import Task
from segal.tasks.classification.task import Classification, Multilabel
from segal.tasks.detection.task import Detection
from segal.tasks.options import Outline
from segal.tasks.segmentation.task import Segmentation

__all__ = ["TASKS", "Outline", "Task", "find_task", "layout_name", "task_name", "task_of"]

TASKS: Registry[type[Task]] = Registry("task")
for _task in (Segmentation, Classification, Multilabel, Detection):
    TASKS.register(_task.name)(_task)
    WRAPPERS.register(_task.name)(_task.wrapper)
    ANSWERS.register(_task.name)(_task.answers)


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
        SegalError: If there is none.
    """
    return TASKS.get(task_name(name))()


def task_of(spec: ModelSpec) -> Task:
    """What a network is asked.

    Raises:
        SegalError: If there is no such task.
    """
    return find_task(spec.task)


def task_name(text: str) -> str:
    """The name of a task.

    Raises:
        SegalError: For any other text.
    """
    if text not in TASKS:
        raise SegalError(
            "task: not valid",
            expected=f"one of {', '.join(TASKS)}",
            got=repr(text),
            remedy="choose one of these",
        )
    return text


def layout_name(text: str) -> str:
    """The name of a layout that some task's data sets have, or auto.

    Raises:
        SegalError: For any other text.
    """
    layouts = dict.fromkeys(name for task in TASKS for name in find_task(task).layouts)
    return known_layout(text, layouts)
