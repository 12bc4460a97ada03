"""The network of `mlp` in PyTorch as an expert would train it: digits in memory, a fused Adam.

Usage: torch_mlp.py [BATCH_SIZE [EPOCHS]], with torch installed.
"""

import sys
import time

import lines
import torch

batch_size, epochs = (*map(int, sys.argv[1:]), *(128, 5)[len(sys.argv) - 1 :])
arrays = lines.mnist()
train_images, test_images = (torch.tensor(array) for array in arrays[::2])
train_labels, test_labels = (torch.tensor(array.astype("int64")) for array in arrays[1::2])
steps = len(train_images) // batch_size

model = torch.nn.Sequential(
    torch.nn.Flatten(), torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
)
cross_entropy = torch.nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), 4e-3, fused=True)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
seconds = 0.0
for number in range(1, epochs + 1):
    started = time.perf_counter()
    order = torch.randperm(len(train_images))[: steps * batch_size]
    for chosen in order.split(batch_size):
        optimizer.zero_grad()
        cross_entropy(model(train_images[chosen].float() / 255), train_labels[chosen]).backward()
        optimizer.step()
        schedule.step()
    seconds += time.perf_counter() - started
    with torch.no_grad():
        right = model(test_images.float() / 255).argmax(1) == test_labels
    lines.epoch(number, seconds, right.float().mean())
lines.end()
