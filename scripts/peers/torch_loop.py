"""The networks `mlp` and `cnn` in PyTorch as an expert would train them, digits in memory.

Usage: torch_loop.py [MODEL [BATCH_SIZE [EPOCHS]]], with torch installed.
"""

import time

import lines
import torch
from torch import nn

name, batch_size, epochs = lines.arguments("mlp", 128, 5)
arrays = lines.mnist()
train_images, test_images = (torch.tensor(array)[:, None] for array in arrays[::2])
train_labels, test_labels = (torch.tensor(array.astype("int64")) for array in arrays[1::2])
steps = len(train_images) // batch_size

NETWORKS = {
    "mlp": lambda: [nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)],
    "cnn": lambda: [
        *(nn.Conv2d(1, 16, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 48, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(48, 96, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3 * 3 * 96, 128), nn.ReLU(), nn.Linear(128, 10)),
    ],
}
# Channels last is the layout that its convolutions on a CPU are fastest with.
model = nn.Sequential(*NETWORKS[name]()).to(memory_format=torch.channels_last)
cross_entropy = nn.CrossEntropyLoss()
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
