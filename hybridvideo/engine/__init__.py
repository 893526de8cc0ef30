"""Training, evaluation and the bulk jobs: the room that runs models and, with the tasks, knows Accelerate."""
