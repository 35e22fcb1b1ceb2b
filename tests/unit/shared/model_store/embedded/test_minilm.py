import torch
from transformers import AutoModel, AutoTokenizer


def test_tokenizer_does_not_pad_or_truncate(minilm):
    """The tokenizer neither pads nor truncates by default."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    assert len(tokenizer("one two").input_ids) == 4
    assert len(tokenizer("word " * 300).input_ids) == 302
    assert len(tokenizer.backend_tokenizer.encode("one two").ids) == 4
    assert tokenizer.model_max_length == 512


def test_similar_sentences_have_near_embeddings(minilm):
    """Sentences of similar meaning have a higher cosine similarity than unrelated ones."""
    tokenizer, model = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm)
    texts = ["A cat sits on a mat.", "A kitten is lying on the rug.", "Stocks fell sharply on Monday."]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state  # (texts, tokens, features)
    mask = inputs["attention_mask"][:, :, None]
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    near, far = means[0] @ means[1], means[0] @ means[2]
    assert near > 0.5 > 0.2 > far
