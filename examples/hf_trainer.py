"""Train a BERT with transformers.Trainer to half of its FLOPs: fewer heads, narrower layers.

    python examples/hf_trainer.py

A digit is a sentence of 16 words here, each the shade of four pixels. What differs from an ordinary
Trainer is marked with # 1 to # 5.
"""

import torch
from sklearn.datasets import load_digits
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import secateur as sc
from secateur.integrations.transformers import BudgetCallback, to_budget

torch.manual_seed(0)
digits = load_digits()
shades = digits.images.reshape(-1, 4, 2, 4, 2).mean((2, 4)).round()
words = torch.from_numpy(shades).long().flatten(1)
data = [
    {"input_ids": image, "labels": label} for image, label in zip(words, digits.target, strict=True)
]
train, test = data[:1400], data[1400:]
config = BertConfig(
    vocab_size=17,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=96,
    max_position_embeddings=16,
    num_labels=10,
    initializer_range=0.1,  # trained from scratch, and dropout would only slow that down
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
model = BertForSequenceClassification(config)
args = TrainingArguments(
    "trained",
    num_train_epochs=15,
    per_device_train_batch_size=16,
    per_device_eval_batch_size=200,
    learning_rate=2e-3,
    warmup_steps=50,
    weight_decay=0.01,
    save_strategy="epoch",  # go on with trainer.train(resume_from_checkpoint=True)
    save_total_limit=1,
    report_to="none",
)

example = {"input_ids": words[:1]}
groups = sc.heads(model, example) + sc.neurons(model, example)  # 1: what may be removed
budget = sc.Budget(flops=0.5)  # 2: what you can afford
trainer = Trainer(
    model,
    args,
    train_dataset=train,
    eval_dataset=test,
    optimizer_cls_and_kwargs=to_budget(args, train, groups, budget, geometry="optimizer"),  # 3
    compute_metrics=lambda found: {"accuracy": (found[0].argmax(1) == found[1]).mean()},
    callbacks=[BudgetCallback()],  # 4: what is kept, beside the loss
)
trainer.train()

model.to("cpu")
small = sc.shrink(model, groups)  # 5: a smaller BERT that computes the same
sc.save(small, "small.safetensors")
trainer.model = trainer.model_wrapped = small.to(args.device)
found = trainer.evaluate()
print(budget.reached(small.to("cpu"), example))
print(f"test accuracy {found['eval_accuracy']:.1%}")
