"""GSG: GLUE and SuperGLUE together, 15 tasks; RTE, which both hold, is GLUE's."""

from scalearn.tasks import glue, super_glue

KEYS = (*(task.key for task in glue.TASKS), *(task.key for task in super_glue.TASKS if task.name != "rte"))
