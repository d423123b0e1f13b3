"""Models on disk and on the Hub: folders, cards, chains of models."""
