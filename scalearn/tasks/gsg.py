"""GSG: GLUE and SuperGLUE together, 15 tasks. RTE, which is in both, is taken from GLUE."""

from scalearn.tasks import glue, super_glue

KEYS = (*(task.key for task in glue.TASKS), *(task.key for task in super_glue.TASKS if task.name != "rte"))
