"""`register` as a component."""

from kfp import dsl

from backdrop.components.image import cpu_component


@cpu_component
def register(
    data: str,
    config: dsl.Input[dsl.Artifact],
    plans: dsl.Input[dsl.Dataset],
    members: list[str],
    report: dsl.Input[dsl.Artifact],
    tuned: bool,
    name: str,
    model: dsl.Output[dsl.Model],
) -> str:
    """Registers the ensemble as a version of the model, makes it the challenger, and returns the model's name.

    `config` is its YAML; `tuned` says whether the members have schedules of their own.
    """
    from backdrop.components.pages import ensemble_file
    from backdrop.components.plans import plan_paths
    from backdrop.steps.register import register as step
    from backdrop.tracking.webhook import failure_sent

    with failure_sent("register"), ensemble_file(config.path, tuned, members) as path:
        registration = step(data, plan_paths(plans.path), members, report.path, path, name)
    model.metadata.update(registration.model_dump())
    return registration.name
