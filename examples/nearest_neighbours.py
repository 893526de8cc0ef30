"""Find the videos most similar to one of them: python nearest_neighbours.py CHECKPOINT FOLDER VIDEO_IN_FOLDER"""

import sys

import numpy as np

import hybridvideo as hv

model = hv.load_model(sys.argv[1])
features: dict[str, list[np.ndarray]] = {}  # of each video, one vector per clip
for row in hv.extract(model, sys.argv[2], workers=2, as_numpy=True):
    if row["feature"] is not None:
        features.setdefault(row["path"], []).append(row["feature"])

if sys.argv[3] not in features:
    sys.exit(f"{sys.argv[3]} is not among the videos that could be read; give its path below {sys.argv[2]}")
paths = list(features)
vectors = np.stack([np.mean(clips, axis=0) for clips in features.values()])
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

similarity = vectors @ vectors[paths.index(sys.argv[3])]
for place in np.argsort(-similarity)[:5]:
    print(f"{similarity[place]:.3f} {paths[place]}")
