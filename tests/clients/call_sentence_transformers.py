"""Run sentence-transformers. Each call is a model's folder, with completions and their prompts."""

from calling import serve_calls
from sentence_transformers import SentenceTransformer


def run(folder, texts):
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    completions, prompts = texts
    embeddings = model.encode_document(completions, batch_size=1), model.encode_query(prompts, batch_size=1)
    return model.similarity_pairwise(*embeddings).tolist()


serve_calls(run)
