"""Weights: this project's checkpoint folders, and foreign ones by layout; strict unless asked otherwise.

    load_weights     weights into a model that exists      load_model      a model with all that belongs to it
    load_foreign     foreign weights into a new model      build_model     a model from a card or options
    open_source      any source -> tensors and facts; find_checkpoint, torchvision, huggingface open one kind each
    recognise        tensors -> layouts/, one file a code base; resize, label_order adapt tensors

Imports form a line: source <- one kind each <- open_source <- recognise <- load_weights <- load_foreign <- load_model.
"""
