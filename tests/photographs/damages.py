"""Damages to the result of a batch of images."""

import numpy as np

from age_gender.photographs.batch_results import BatchResult


def fewer_embeddings(result: BatchResult) -> BatchResult:
    return result._replace(embeddings=result.embeddings[1:])


def fewer_faces(result: BatchResult) -> BatchResult:
    return result._replace(names=result.names[1:], embeddings=result.embeddings[1:])


def other_width(result: BatchResult) -> BatchResult:
    return result._replace(embeddings=result.embeddings[:, :500])


def not_finite(result: BatchResult) -> BatchResult:
    return result._replace(embeddings=np.full_like(result.embeddings, np.nan))


def other_faces(result: BatchResult) -> BatchResult:
    return result._replace(names=np.array([f"another-{name}" for name in result.names]))


def one_face_more(result: BatchResult) -> BatchResult:
    names, embeddings = result.names, result.embeddings
    return result._replace(
        names=np.append(names, "another.png"), embeddings=np.append(embeddings, embeddings[:1], 0)
    )


def doubles(result: BatchResult) -> BatchResult:
    return result._replace(embeddings=result.embeddings.astype(np.float64))


def numbers_as_names(result: BatchResult) -> BatchResult:
    return result._replace(names=np.arange(len(result.names)))


DAMAGES = [fewer_embeddings, fewer_faces, other_width, not_finite, other_faces, one_face_more,
           doubles, numbers_as_names]  # fmt: skip
