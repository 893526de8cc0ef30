"""Weights: this project's checkpoint folders, and foreign ones by layout; strict unless asked otherwise.

    load_model       a model with everything that belongs to it, from any source
    load_weights     weights of any source into a model that exists
    load_foreign     foreign weights into a new model, with a card
    open_source      any source -> its tensors and what it states about them; one kind each:
                     find_checkpoint, torchvision_weights, huggingface_weights
    recognise        tensors -> their layout, one file per code base in layouts/
    resize, label_order                     what is adapted on the way
    build_model      a model from the settings in a card or in options

Imports form a line: source <- one kind each <- open_source <- recognise <- load_weights <- load_foreign <- load_model.
"""
