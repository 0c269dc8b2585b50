<#
.SYNOPSIS
    Does on Windows what make does on Linux and Mac: .\make.ps1 TASK [arguments of the task]
.DESCRIPTION
    Everything sets itself up in .venv with pip; a second call starts at once. The tasks and their
    commands are those of the Makefile. They run where pwsh runs, too.
.PARAMETER Task
    What to do, such as setup, demo, test, check, docs or dist; "setup" only sets up.
.PARAMETER Torch
    The build of torch: cpu, or a name such as cu130 of a page below https://download.pytorch.org/whl/.
    Without it, the one that suits the graphics card. It counts when .venv is set up.
.PARAMETER Python
    The Python to set up with, where py does not find one from 3.11 on.
.PARAMETER Arguments
    Handed on to the task's command.
.EXAMPLE
    .\make.ps1 demo
.EXAMPLE
    .\make.ps1 setup -Torch cu130
#>
[CmdletBinding(PositionalBinding = $false)]
param(
    [Parameter(Position = 0)] [string] $Task = "help",
    [string] $Torch = "",
    [string] $Python = "",
    [Parameter(ValueFromRemainingArguments = $true)] [string[]] $Arguments = @()
)

$ErrorActionPreference = "Stop"
Set-StrictMode -Version 2.0
$Pages = "https://download.pytorch.org/whl/"
$Root = $PSScriptRoot
$Venv = Join-Path $Root ".venv"
$Ready = Join-Path $Venv ".ready"
$OnWindows = $env:OS -eq "Windows_NT"
$Bin = Join-Path $Venv $(if ($OnWindows) { "Scripts" } else { "bin" })

# One line a command, as in the Makefile; python, coinage and so on are those of .venv
$Tasks = [ordered]@{
    "demo" = @("coinage demo ARGS")
    "test" = @("python -m pytest -n 2 --dist loadfile --no-loadscope-reorder ARGS")
    "coverage" = @(
        "coverage erase",
        "coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder ARGS",
        "coverage combine --quiet",
        "coverage report"
    )
    "test-browser" = @("python -m pytest -n 2 --dist loadfile -m 'browser and not slow' tests/ui tests/report ARGS")
    "test-slow" = @("python -m pytest -m slow ARGS")
    "test-fuzz" = @("python -m pytest -n 2 -m fuzz ARGS")
    "test-perf" = @("python -m pytest -m perf ARGS")
    "check" = @(
        "ruff format --check --quiet .",
        "ruff check --quiet .",
        "mypy --no-error-summary",
        "python tools/flag_page.py --check",
        "python tools/messages_page.py --check",
        "python tools/compared_page.py --check"
    )
    "docs" = @("python -m mkdocs build --strict --quiet")
    "dist" = @("python tools/dist_check.py ARGS")
    "full-size-check" = @("python tools/full_size_check.py ARGS")
    "gpu-check" = @("python tools/gpu_check.py ARGS")
    "format" = @(
        "ruff format --quiet .",
        "ruff check --quiet --fix .",
        "python tools/flag_page.py",
        "python tools/messages_page.py",
        "python tools/compared_page.py"
    )
    "model" = @("python tools/build_demo_world.py --out build/demo_world ARGS")
}
$Made = ".venv", ".venv-oldest", "build", "demo_output", ".coverage*", ".pytest_cache", ".mypy_cache", ".ruff_cache"

# Says what is wrong and how to mend it, without a stack of PowerShell's own, and ends.
function Stop-Plainly([string] $What, [string] $Hint) {
    [Console]::Error.WriteLine("error: $What")
    if ($Hint) { [Console]::Error.WriteLine("hint: $Hint") }
    exit 1
}

# Runs a program of .venv; what fails ends everything with its exit code.
function Invoke-Own([string] $Name, [string[]] $Words) {
    & (Join-Path $Bin $Name) @Words
    if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
}

# Returns the program and first words of a Python from 3.11 on.
function Find-Python {
    $new = "import sys; sys.exit(sys.version_info < (3, 11))"
    $choices = @()
    if ($Python) { $choices += , @($Python) }
    else {
        foreach ($version in "3.13", "3.12", "3.11") { $choices += , @("py", "-$version") }
        $choices += , @("python")
        $choices += , @("python3")
    }
    foreach ($choice in $choices) {
        if (-not (Get-Command $choice[0] -ErrorAction SilentlyContinue)) { continue }
        $words = @($choice | Select-Object -Skip 1)
        # What py says of versions that are not there is no error of ours
        $ErrorActionPreference = "Continue"
        & $choice[0] @words -c $new 2>&1 | Out-Null
        $works = $LASTEXITCODE -eq 0
        $ErrorActionPreference = "Stop"
        if ($works) { return $choice }
    }
    Stop-Plainly "Python 3.11 or newer is needed, and was not found" `
        "install it from https://www.python.org/downloads/windows/, or name it: -Python C:\Python312\python.exe"
}

# Returns the page of torch's builds that suits the machine; "" for the usual one of PyPI.
function Find-Page {
    if ($Torch) { return "$Pages$Torch" }
    if (-not (Get-Command "nvidia-smi" -ErrorAction SilentlyContinue)) { return "${Pages}cpu" }
    $found = @(& nvidia-smi "--query-gpu=compute_cap,driver_version" "--format=csv,noheader")
    if ($LASTEXITCODE -ne 0 -or -not $found) { return "${Pages}cpu" }
    $capability, $version = $found[0].Split(",") | ForEach-Object { $_.Trim() }
    $driver = [int] $version.Split(".")[0]
    $major, $minor = $capability.Split(".") | ForEach-Object { [int] $_ }
    $card = $major * 10 + $minor
    # What `coinage doctor` chooses; a test compares the two
    if ($driver -lt 525) { return "${Pages}cu118" }
    if ($card -lt 75) { return "${Pages}cu126" }
    if ($driver -ge 580) { return "${Pages}cu130" }
    if ($card -ge 100) { return "${Pages}cu128" }
    return "${Pages}cu126"
}

# Makes .venv unless it is there and as new as the files that it is made from.
function Initialize-Venv {
    if (Test-Path $Ready) {
        $made = (Get-Item $Ready).LastWriteTimeUtc
        $sources = Get-Item (Join-Path $Root "pyproject.toml"), (Join-Path $Root "constraints.txt")
        if (-not $Torch -and -not @($sources | Where-Object { $_.LastWriteTimeUtc -gt $made })) { return }
    }
    $found = @(Find-Python)
    $words = @($found | Select-Object -Skip 1)
    $page = Find-Page
    Write-Host "setting up .venv (once, a few minutes), torch from $page"
    & $found[0] @words -m venv $Venv
    if ($LASTEXITCODE -ne 0) { Stop-Plainly ".venv cannot be made" "delete the folder .venv, and try again" }
    $install = "-m", "pip", "install", "--quiet", "--disable-pip-version-check"
    $limits = "--constraint", "constraints.txt"
    if ($page -eq "${Pages}cpu") {
        Invoke-Own "python" ($install + $limits + "torch", "--index-url", $page)
    }
    else {
        # Not every page has the torch that constraints.txt names: what it has is taken, and kept
        Invoke-Own "python" ($install + "torch", "--index-url", $page)
        $others = Join-Path $Venv "constraints.txt"
        Get-Content "constraints.txt" | Where-Object { $_ -notmatch "^torch==" } | Set-Content $others
        $limits = "--constraint", $others
    }
    Invoke-Own "python" ($install + $limits + "--editable", ".[dev]")
    New-Item -ItemType File -Force -Path $Ready | Out-Null
}

# Splits a command at its spaces; what stands in single quotes is one word.
function Split-Command([string] $Command) {
    foreach ($match in [regex]::Matches($Command, "'([^']*)'|(\S+)")) {
        if ($match.Groups[1].Success) { $match.Groups[1].Value } else { $match.Value }
    }
}

Push-Location $Root
try {
    if ($Task -eq "help") {
        Write-Host "usage: .\make.ps1 TASK [arguments]`ntasks: setup, $($Tasks.Keys -join ', '), clean"
        exit 0
    }
    if ($Task -eq "clean") {
        Remove-Item -Recurse -Force -ErrorAction SilentlyContinue -Path $Made
        exit 0
    }
    if ($Task -ne "setup" -and -not $Tasks.Contains($Task)) {
        Stop-Plainly "there is no task $Task" "the tasks are setup, $($Tasks.Keys -join ', '), clean"
    }
    Initialize-Venv
    if ($Task -eq "setup") { exit 0 }
    if ($Task -eq "docs") { $env:NO_MKDOCS_2_WARNING = "1" }
    foreach ($line in $Tasks[$Task]) {
        $words = @(Split-Command $line | ForEach-Object { if ($_ -eq "ARGS") { $Arguments } else { $_ } })
        Invoke-Own $words[0] @($words | Select-Object -Skip 1)
    }
}
finally {
    Pop-Location
}
