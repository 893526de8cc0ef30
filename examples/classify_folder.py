"""Classify every video below a folder: python classify_folder.py CHECKPOINT FOLDER"""

import sys

import hybridvideo as hv

model = hv.load_model(sys.argv[1])
for row in hv.classify(model, sys.argv[2], top_k=3, workers=2):
    if row["label"] is None:
        print(f"{row['path']}: {row['status']}, {row['reason']}")
    else:
        print(f"{row['path']}: {row['label']} ({row['score']:.2f})")
