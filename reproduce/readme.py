"""Write every measured number of the READMEs and docs/speed.md: what lies between `<!-- generated: NAME -->` and `<!-- end -->`.

Run as: python -m reproduce.readme        (make readme; `--check` writes nothing and fails if a file is not up to date)

The numbers come from metrics/, environment/ and benchmarks/results/. What has no file is "not run".
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reproduce.params import read_yaml
from reproduce.stage import UserError, read_json, write_text

FILES = {"en": Path("README.md"), "pt": Path("README.pt-BR.md")}
SPEED = Path("docs/speed.md")
REMEDY = "Take it from git (`git checkout -- FILE`), or run what writes it again."
NOT_RUN = "not run"
# Where the badge leads. Once the repository has an address, the notebook opens in Colab at once by
# https://colab.research.google.com/github/OWNER/NAME/blob/main/notebooks/colab.ipynb
COLAB = "notebooks/colab.ipynb"
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

# English is the key; what is not here is written alike.
PORTUGUESE = {
    "not run": "não executado",
    "reproduced": "reproduzida",
    "not reproduced": "não reproduzida",
    "inconclusive": "inconclusiva",
    "claim": "afirmação",
    "article": "artigo",
    "here": "aqui",
    "difference": "diferença",
    "seeds": "sementes",
    "verdict": "veredito",
    "model": "modelo",
    "median": "mediana",
    "each seed": "cada semente",
    "speed-up over": "aceleração sobre",
    "parameters, M": "parâmetros, M",
    "MB on disk": "MB em disco",
    "s a pass": "s por passada",
    "sentences/s": "frases/s",
    "device": "dispositivo",
    "precision": "precisão",
    "minutes a run": "minutos por execução",
    "peak memory, GB": "pico de memória, GB",
    "a CUDA GPU": "uma GPU CUDA",
    "CPU threads": "threads de CPU",
    "{a} of {b}": "{a} de {b}",
    "Accuracy": "Acurácia",
    "validation": "validação",
    "held out of train": "parte separada do treino",
    "Open in Colab": "Abrir no Colab",
    "form": "forma",
    "score": "resultado (x 100)",
    "other labels than PyTorch": "rótulos diferentes do PyTorch",
    "largest difference of a logit": "maior diferença de um logit",
    "benchmark": "medição",
    "result": "resultado",
    "target": "meta",
    "met": "cumprida",
    "yes": "sim",
    "no": "não",
}

SENTENCES = {
    "scores": {
        "en": "{metric} on {dataset}, {split} ({n} sentences), in percent; every seed is listed:",
        "pt": "{metric} em {dataset}, {split} ({n} frases), em porcentagem; todas as sementes são listadas:",
    },
    "speed": {
        "en": "Size and speed ({cpu}, {threads} threads, fp32, batch size 1, {n} sentences a pass, the models taking turns "
        "sentence by sentence). Parameters are without the classification head, as the article counts them; its seconds are of "
        "another processor and data set, so only the ratio compares:",
        "pt": "Tamanho e velocidade ({cpu}, {threads} threads, fp32, lote de tamanho 1, {n} frases por passada, os modelos "
        "alternando-se a cada frase). Parâmetros sem a cabeça de classificação, como o artigo os conta; os segundos do artigo "
        "são de outro processador e outro conjunto de dados, por isso só a razão se compara:",
    },
    "exported": {
        "en": "Exported for ONNX Runtime (opset and inputs are in `metrics/export/`), on the same validation sentences:",
        "pt": "Exportados para o ONNX Runtime (opset e entradas estão em `metrics/export/`), nas mesmas frases de validação:",
    },
    "trainings": {
        "en": "What the trainings ran on (memory: of the GPU, or on a CPU of the process):",
        "pt": "Em que os treinamentos foram executados (memória: da GPU ou, em CPU, do processo):",
    },
    "demo": {
        "en": "On two CPU cores it took {seconds} s and was right on {scores} % of the validation sentences, half of which are "
        "positive, with seeds {seeds} (`benchmarks/results/demo.json`).",
        "pt": "Em dois núcleos de CPU levou {seconds} s e acertou {scores} % das frases de validação, metade das quais é "
        "positiva, com as sementes {seeds} (`benchmarks/results/demo.json`).",
    },
}


class Language:
    """Words and numbers of one language."""

    def __init__(self, language: str) -> None:
        self.portuguese = language == "pt"
        self.key = language

    def __call__(self, text: str, **values: object) -> str:
        """`text` (English) in this language, places filled."""
        return (PORTUGUESE.get(text, text) if self.portuguese else text).format(**values)

    def sentence(self, name: str, **values: object) -> str:
        """A sentence of `SENTENCES`, places filled."""
        return SENTENCES[name][self.key].format(**values)

    def number(self, value: float | str, digits: int = 2, sign: bool = False) -> str:
        """A number with so many decimals; words ("not run") are translated."""
        if isinstance(value, str):
            return self(value)
        text = f"{value:{'+' if sign else ''}.{digits}f}"
        return text.replace(".", ",") if self.portuguese else text


def main() -> None:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file would change")
    check = parser.parse_args().check
    changed = []
    for path, language, blocks in (*((path, key, BLOCKS) for key, path in FILES.items()), (SPEED, "en", SPEED_BLOCKS)):
        text = path.read_text(encoding="utf-8")
        new = filled(text, path, Language(language), blocks)
        if new != text:
            changed.append(str(path))
            if not check:
                write_text(path, new)
    if check and changed:
        raise UserError(f"{', '.join(changed)}: not what metrics/, environment/ and benchmarks/results/ say. Run `make readme`.")
    print(f"{', '.join(changed)}: written" if changed else "README: up to date")


def filled(text: str, path: Path, say: Language, blocks: "Blocks") -> str:
    """`text` with every block written anew. `UserError` for an unknown block, or one that is missing."""
    found = [match[2] for match in BLOCK.finditer(text)]
    if sorted(found) != sorted(blocks):
        raise UserError(
            f"{path}: generated blocks {', '.join(found) or 'none'}; expected each of {', '.join(blocks)} once, "
            "as `<!-- generated: NAME -->` and `<!-- end -->` on lines of their own."
        )
    return BLOCK.sub(lambda match: match[1] + blocks[match[2]](say).strip("\n") + "\n" + match[3], text)


def results(say: Language) -> str:
    """Verdicts, scores, size and speed, and what the trainings ran on."""
    parts = [claims(say), scores(say), speed(say), exported(say), trainings(say)]
    return "\n\n".join(part for part in parts if part)


def claims(say: Language) -> str:
    """A row a claim; nothing where metrics/claims.json was not written yet."""
    if not Path("metrics/claims.json").exists():
        return ""
    rows = [[say(head) for head in ("claim", "article", "here", "difference", "seeds", "verdict")]]
    found = read("metrics/claims.json")["claims"]
    for name in read_yaml(Path("published.yaml"))["claims"]:  # in the article's order, which JSON's sorted keys lose
        if not (claim := found.get(name)):
            continue
        asked = claim["seeds_requested"]
        rows.append([
            claim["statement"][say.key],
            short(say, claim["published"]),
            short(say, claim["measured"]),
            short(say, claim["difference"], sign=True),
            say("{a} of {b}", a=claim["seeds_run"], b=asked) if asked is not None else "-",
            f"**{say(claim['verdict'])}**",
        ])  # fmt: skip
    return table(rows)


def scores(say: Language) -> str:
    """Median and every seed of each model, beside the article's number."""
    accuracy = read("metrics/accuracy.json")
    rows = [[say(head) for head in ("model", "median", "each seed", "article")]]
    for name, model in accuracy["models"].items():
        spread = "" if model["std"] is None else f" ± {say.number(model['std'])}"
        each = ", ".join(f"{seed}: {say.number(value)}" for seed, value in model["by_seed"].items())
        published = model.get("published", {}).get("score", "-")
        rows.append([name, f"**{say.number(model['median'])}**{spread}", each, short(say, published)])
    metric = accuracy["metric"] if accuracy["metric"] != NOT_RUN else "accuracy"
    head = say.sentence(
        "scores",
        metric=say(metric.capitalize()),
        dataset=accuracy["dataset"],
        split=say(accuracy["split"]),
        n=accuracy["sentences"],
    )
    return f"{head}\n\n{table(rows)}"


def speed(say: Language) -> str:
    """The article's Table 3, measured."""
    speed, table3 = read("metrics/speed.json"), read_yaml(Path("published.yaml"))["table3"]
    teacher, seconds = speed["teacher"], table3["seconds"]
    heads = ("model", "parameters, M", "article", "MB on disk", "s a pass", "sentences/s")
    rows = [[*(say(head) for head in heads), f"{say('speed-up over')} {teacher}", say("article")]]
    for name, model in speed["models"].items():
        ratio = seconds[teacher] / seconds[name] if {name, teacher} <= seconds.keys() else "-"
        rows.append([
            name,
            say.number(model["parameters_encoder"] / 1e6, 1),
            short(say, table3["parameters"].get(name, "-")),
            say.number(model["bytes"] / 1e6, 1),
            say.number(model["seconds"], 1),
            say.number(model["sentences_per_second"], 1),
            say.number(model["speedup"]),
            say.number(ratio),
        ])  # fmt: skip
    machine = speed["environment"]
    head = say.sentence("speed", cpu=machine["cpu"], threads=machine["threads"], n=speed["sentences"])
    return f"{head}\n\n{table(rows)}"


def exported(say: Language) -> str:
    """Size and score of each exported form, and how far it is from PyTorch; nothing where nothing was exported."""
    heads = ("model", "form", "MB on disk", "score", "other labels than PyTorch", "largest difference of a logit")
    rows = [[say(head) for head in heads]]
    for path in sorted(Path("metrics/export").glob("*.json")):
        found = read(path)
        for form in ("pytorch", *(name for name in found["forms"] if name != "pytorch")):
            one = found["forms"][form]
            rows.append([
                path.stem,
                form,
                say.number(one["bytes"] / 1e6, 1),
                say.number(100 * one["score"]),
                short(say, one.get("other_labels", "-")),
                short(say, one.get("largest_logit_difference", "-")),
            ])  # fmt: skip
    return f"{say.sentence('exported')}\n\n{table(rows)}" if len(rows) > 1 else ""


def trainings(say: Language) -> str:
    """Device, precision, minutes and memory of each training; a GPU is "not run" until a file of environment/ has one."""
    rows = [[say(head) for head in ("model", "seeds", "device", "precision", "minutes a run", "peak memory, GB")]]
    groups: dict[tuple[str, ...], list[tuple[int, dict[str, Any]]]] = {}
    for model, seeds in ((name, model["by_seed"]) for name, model in read("metrics/accuracy.json")["models"].items()):
        for seed in seeds:
            path = Path(f"environment/{model}-{seed}.json")
            if path.exists():
                run = read(path)
                device = run["gpu"] or f"{run['cpu']}, {run['threads']} {say('CPU threads')}"
                groups.setdefault((model, device, run["precision"]), []).append((int(seed), run))
    for (model, device, precision), runs in groups.items():
        minutes, memory = (
            [run[key] / unit for _, run in runs] for key, unit in (("seconds", 60), ("peak_memory_mb", 1e9 / 2**20))
        )
        seeds = ", ".join(str(seed) for seed, _ in runs)
        rows.append([model, seeds, device, precision, span(say, minutes, 0), span(say, memory, 1)])
    if not any(run["gpu"] for runs in groups.values() for _, run in runs):
        rows.append(["-", "-", say("a CUDA GPU"), "-", say(NOT_RUN), say(NOT_RUN)])
    return say.sentence("trainings") + "\n\n" + table(rows)


def colab(say: Language) -> str:
    """The badge."""
    return f"[![{say('Open in Colab')}](https://colab.research.google.com/assets/colab-badge.svg)]({COLAB})"


def demo(say: Language) -> str:
    """Time and accuracy of `make demo`."""
    demo = read("benchmarks/results/demo.json")
    by_seed = demo["accuracy_by_seed"]
    reached = " / ".join(say.number(value) for value in by_seed.values())
    seconds = say.number(demo["wall"]["median"], 0)
    return say.sentence("demo", seconds=seconds, scores=reached, seeds=" / ".join(by_seed))


def printed(name: str, say: Language) -> str:
    """What a command printed after `make demo`, with the command."""
    demo = read("benchmarks/results/demo.json")
    return f"`{demo['commands'][name]}`:\n\n```text\n{demo['printed'][name]}\n```"


def benchmarks(say: Language) -> str:
    """What each script of benchmarks/ found, in its own words, and whether its target is met."""
    rows = [[say(head) for head in ("benchmark", "result", "target", "met")]]
    for path in sorted(Path("benchmarks/results").glob("*.json")):
        found = read(path)
        rows.append([f"[{path.stem}]({path})", found["summary"], found["target"], say("yes" if found["met"] else "no")])
    return table(rows)


# ------------------------------------------------------------------------------------------------------- docs/speed.md


def measured(name: str) -> dict[str, Any] | None:
    """What the script benchmarks/NAME.py wrote; None if it was not run."""
    path = Path(f"benchmarks/results/{name}.json")
    return read(path) if path.exists() else None


def training(say: Language) -> str:
    """Four ways to fine-tune DistilBERT: sentences/s, ratio, memory."""
    if not (found := measured("training")):
        return NOT_RUN
    names = {"fixed": "`run_glue.py`, padded to 128", "dynamic": "`run_glue.py`, padded to the batch", "bare": "bare loop",
             "ours": "this pipeline"}  # fmt: skip
    rows = [["way", "precision", "sentences/s", "this pipeline is faster by", "peak memory, GB"]]
    for way, name in names.items():
        ratio = found["ratio"].get(f"ours/{way}", 1.0)
        rate, memory = found[way]["examples_per_second"]["median"], found["peak_memory_gb"][way]
        rows.append([name, found["precision"][way], say.number(rate, 1), say.number(ratio), say.number(memory)])
    return f"On {on(found)}, medians of {found['turns']} turns:\n\n{table(rows)}"


def profile(say: Language) -> str:
    """Where a step's time goes."""
    if not (found := measured("training")):
        return NOT_RUN
    rows = [["part of a step", "share of its time, %"]]
    largest_first = sorted(found["profile_share_of_a_step"].items(), key=lambda item: -item[1])
    rows += [[part, say.number(100 * share, 1)] for part, share in largest_first]
    return table(rows)


def options(say: Language) -> str:
    """What was tried: sentences/s over the loop's."""
    if not (found := measured("training_options")):
        return f"{NOT_RUN.capitalize()} with this code."
    rows = [["option", "sentences/s over the loop's (range)"]]
    rows += [
        [name, f"{say.number(one['median'])} ({say.number(one['min'])} to {say.number(one['max'])})"]
        for name, one in found["options"].items()
    ]
    seconds = f"{found['compile_seconds']:.0f} s passed before the compiled model's first measured step"
    bf16 = f"A layer's products in bf16 are {say.number(found['bf16_products']['median'], 3)} x as fast as in fp32."
    return f"On {on(found)}, {found['precision']}; {seconds}:\n\n{table(rows)}\n\n{bf16}"


def batching(say: Language) -> str:
    """Near lengths against random batches."""
    found = measured("batching")
    return f"{found['summary'].capitalize()}." if found else f"{NOT_RUN.capitalize()} with this code."


def inference(say: Language) -> str:
    """Every form of every model against eager BERT-base."""
    if not (found := measured("inference")):
        return f"{NOT_RUN.capitalize()} with this code."
    heads = ["model, form", "MB", "accuracy, %", "other labels than PyTorch", "p50, ms", "p95, ms", "x as fast, batch 1",
             "sentences/s, batch 32", "x as fast, batch 32", "peak memory, MB"]  # fmt: skip
    rows = [heads]
    for name, one in found["forms"].items():
        medians = [say.number(one[key]["median"], digits) for key, digits in (
            ("p50_ms", 1), ("p95_ms", 1), ("speedup_batch_1", 2), ("sentences_per_second_batch_32", 1), ("speedup_batch_32", 2)
        )]  # fmt: skip
        others, memory = short(say, one.get("other_labels", "-")), one["memory_mb"]["peak"]["median"]
        rows.append(
            [name, say.number(one["bytes"] / 1e6, 1), say.number(one["accuracy"]), others, *medians, say.number(memory, 0)]
        )
    return f"On {on(found)}, medians of {found['passes']} passes:\n\n{table(rows)}"


def on(found: dict[str, Any]) -> str:
    """The machine that a benchmark ran on."""
    machine = found["environment"]
    return f"{machine['gpu'] or machine['cpu']} ({machine['threads']} threads)"


Blocks = dict[str, Callable[[Language], str]]
BLOCKS: Blocks = {
    "colab": colab, "results": results, "demo": demo, "benchmarks": benchmarks,
    **{name: partial(printed, name) for name in ("table", "metrics", "params")},
}  # fmt: skip
SPEED_BLOCKS: Blocks = {
    "training": training, "profile": profile, "batching": batching, "options": options, "inference": inference,
}  # fmt: skip


def read(path: Path | str) -> Any:
    """A JSON file; `UserError` if it is missing or no JSON."""
    try:
        return read_json(Path(path), REMEDY.replace("FILE", str(path)))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. {REMEDY.replace('FILE', str(path))}") from error


def short(say: Language, value: float | str, sign: bool = False) -> str:
    """A number as it is in its file."""
    if isinstance(value, str):
        return say(value)
    text = f"{value:{'+' if sign else ''}g}"
    return text.replace(".", ",") if say.portuguese else text


def span(say: Language, values: Sequence[float], digits: int) -> str:
    """The least and the greatest of some values; one number where they are written alike."""
    low, high = say.number(min(values), digits), say.number(max(values), digits)
    return low if low == high else f"{low}-{high}"


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
