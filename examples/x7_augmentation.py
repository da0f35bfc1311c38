"""X7: CIFAR-10 with crop-4 and flip, Adam at 1e-3, weight decay 1e-4, cosine over 50 epochs, followed epoch by epoch.

python examples/x7_augmentation.py cifar10 --output runs/x7
"""

# %% What is asked for
from exercise import asked, history, keep, row, trained, write

args = asked(__doc__, data="cifar10")

# %% Train the notes' network (32, 64, 128 filters, 620,810 parameters); each epoch's line is printed as it ends
rates = {"optimizer": "adam", "lr": 1e-3, "weight_decay": 1e-4, "schedule": "cosine", "warmup": 0.0}
how = {"model": "simple-cnn", "batch_size": 128, "label_smoothing": 0.0, "augment": "crop=4,flip"}
run = trained(args.output / "run", args.data, epochs=2 if args.short else 50, **how, **rates)

# %% Loss, train and validation accuracy of every epoch. The validation images were held out of train: an epoch that is
# chosen by looking at the test images would be chosen by what it is to be measured with
columns = ("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
epochs = [{name: float(epoch[name]) for name in columns} for epoch in history(run)]
write(epochs, args.output / "epochs")
keep(run, args.output, "curves", "augmentation")

# %% The test images are read once, by the weights of the best epoch
best = max(epochs, key=lambda epoch: epoch["val_accuracy"])
last = {"best epoch": int(best["epoch"]), "val": best["val_accuracy"], "train, augmented": epochs[-1]["train_accuracy"]}
write([{**row("crop-4 and flip", run), **last}], args.output / "results")
