"""How good features are: two linear classifiers trained on them, in f64."""
import numpy as np


def lda_accuracy(train, train_labels, test, test_labels, shrinkage=1e-2):
    """Balanced accuracy of linear discriminant analysis with one covariance for all classes."""
    train, test = standardise(train, test)
    classes = np.unique(train_labels)
    means = np.stack([train[train_labels == c].mean(axis=0) for c in classes])
    rest = train - means[np.searchsorted(classes, train_labels)]
    covariance = rest.T @ rest / len(train)
    covariance = (1.0 - shrinkage) * covariance + shrinkage * np.eye(len(covariance))
    weights = np.linalg.solve(covariance, means.T)
    offsets = -0.5 * (means.T * weights).sum(axis=0)
    return balanced_accuracy(classes[(test @ weights + offsets).argmax(axis=1)], test_labels)


def ridge_accuracy(train, train_labels, test, test_labels, penalty=1e-2):
    """Balanced accuracy of least squares on one-hot targets, each class weighted to the same sum."""
    train, test = standardise(train, test)
    classes, counts = np.unique(train_labels, return_counts=True)
    weights = (1.0 / (len(classes) * counts))[np.searchsorted(classes, train_labels)]
    train, test = (np.hstack([rows, np.ones((len(rows), 1))]) for rows in (train, test))
    targets = (train_labels[:, None] == classes[None]).astype(np.float64)
    weighted = train * weights[:, None]
    regular = penalty * np.eye(train.shape[1])
    regular[-1, -1] = 0.0
    solution = np.linalg.solve(weighted.T @ train + regular, weighted.T @ targets)
    return balanced_accuracy(classes[(test @ solution).argmax(axis=1)], test_labels)


def folds_accuracy(features, labels, folds=5):
    """Mean accuracy of LDA over `folds` parts, each the test set once; every part takes every `folds`-th image."""
    part = np.arange(len(labels)) % folds
    return float(np.mean([
        lda_accuracy(features[part != p], labels[part != p], features[part == p], labels[part == p])
        for p in range(folds)
    ]))


def standardise(train, test):
    """Both in f64, scaled by the mean and standard deviation of `train`."""
    train, test = train.astype(np.float64), test.astype(np.float64)
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-9
    return (train - mean) / std, (test - mean) / std


def balanced_accuracy(predicted, labels):
    """Mean over classes of the share of its images that were named rightly."""
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))
