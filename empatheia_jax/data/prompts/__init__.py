"""What the LLM reads and writes: prompts and targets of dialogues, tokenizers, words for emotions."""
