"""Train in your own loop: python own_training_loop.py FOLDER_OF_CLASS_FOLDERS EPOCHS"""

import sys

import torch

import hybridvideo as hv

clips = hv.dataset(sys.argv[1], frames=8, size=32, stride=1, train=True)
model = hv.create_model("hybrid_micro", len(clips.classes), num_frames=8, image_size=32)
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

with hv.loader(clips, batch_size=8, workers=2, normalise=model) as loader:
    for epoch in range(int(sys.argv[2])):
        total, count = 0.0, 0
        for batch in loader:
            ok = batch["ok"]  # an unreadable video is black, and not ok
            if not ok.any():
                continue
            logits = model(batch["clip"][ok])
            loss = torch.nn.functional.cross_entropy(logits, batch["label"][ok])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total, count = total + loss.item() * int(ok.sum()), count + int(ok.sum())
        print(f"epoch {epoch}: loss {total / max(count, 1):.3f} over {count} clips")

model.save("own_model", labels=clips.classes)  # for hv.load_model, and for: hybridvideo predict own_model FOLDER
