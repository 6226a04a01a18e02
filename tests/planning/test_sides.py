"""Labels that tell left from right are found in every spelling, and nothing else is."""

from __future__ import annotations

import pytest

from medseg.planning.sides import tells_sides


@pytest.mark.parametrize(
    "pair",
    [
        ("LeftKidney", "RightKidney"), ("leftkidney", "rightkidney"), ("KidneyL", "KidneyR"), ("lh_hippocampus", "rh_hippocampus"),
        ("ctx-lh-insula", "ctx-rh-insula"), ("kidney_lt", "kidney_rt"), ("LKidney", "RKidney"), ("lungL", "lungR"),
        ("hippocampusLeft", "hippocampusRight"), ("Left-Thalamus", "Right-Thalamus"), ("left kidney", "right kidney"),
        ("kidney (L)", "kidney (R)"), ("LUNG_LEFT", "LUNG_RIGHT"), ("Lkidney", "Rkidney"), ("kidneyleft", "kidneyright"),
        ("Niere links", "Niere rechts"), ("rein gauche", "rein droit"), ("rib_left_1", "rib_right_1"), ("L.Kidney", "R.Kidney"),
        ("lung_upper_lobe_left", "lung_upper_lobe_right"), ("left atrium", "right atrium"), ("kidneyLt", "kidneyRt"),
        ("rim esquerdo", "rim direito"), ("njure vänster", "njure höger"), ("nyre venstre", "nyre høyre"),
        ("nerka lewa", "nerka prawa"), ("левая почка", "правая почка"), ("左肾", "右肾"), ("PoumonGauche", "PoumonDroit"),
        ("Ohr Links", "Ohr Rechts"),
        ("rene sx", "rene dx"), ("rein_g", "rein_d"), ("Rein G", "Rein D"), ("riñón izdo", "riñón dcho"), ("izda", "dcha"),
        ("rinon izq", "rinon dcho"), ("linkes Ohr", "rechtes Ohr"), ("linkernier", "rechternier"),
        ("atrium sinistrum", "atrium dextrum"),
        ("ventriculi sinistri", "ventriculi dextri"), ("reni sinistri", "reni destri"), ("ren sinister", "ren dexter"),
        ("levá ledvina", "pravá ledvina"), ("levy", "pravy"), ("lijevi bubreg", "desni bubreg"), ("ľavá oblička", "pravá oblička"),
        ("bal vese", "jobb vese"), ("sol böbrek", "sağ böbrek"), ("SOL_BOBREK", "SAG_BOBREK"), ("vasen munuainen", "oikea munuainen"),
        ("αριστερός νεφρός", "δεξιός νεφρός"), ("rinichi stâng", "rinichi drept"), ("stanga", "dreapta"),
        ("ліва нирка", "права нирка"),
        ("почка лев.", "почка прав."), ("왼쪽 신장", "오른쪽 신장"), ("좌신장", "우신장"), ("ronyó esquerre", "ronyó dret"),
        ("الكلية اليسرى", "الكلية اليمنى"),
        ("बायां गुर्दा", "दायां गुर्दा"), ("ไตซ้าย", "ไตขวา"), ("thận trái", "thận phải"), ("ginjal kiri", "ginjal kanan"),
        ("כליה שמאלית", "כליה ימנית"), ("کلیه چپ", "کلیه راست"), ("njure vanster", "njure hoger"), ("nyre hoyre", "nyre venstre"),
        ("prawe płuco", "lewe płuco"), ("PŁUCO_LEWE", "PŁUCO_PRAWE"), ("左側", "右側"), ("ひだり", "みぎ"),
        ("LeftKidney_1", "RightKidney_1"),
        ("kidney_lhs", "kidney_rhs"), ("femur.L.001", "femur.R.001"), ("３L", "３R"), ("rein-gauche", "rein-droit"),
        ("reingauche", "reindroit"),
        ("LH-Amygdala", "RH-Amygdala"), ("LV", "RV"), ("riñón izquierdo", "riñón derecho"), ("kidneyleftcortex", "kidneyrightcortex"),
    ],
)  # fmt: skip
def test_two_labels_that_differ_by_a_side(pair: tuple[str, str]) -> None:
    assert tells_sides(["background", *pair]) in pair
    assert tells_sides(["liver", *reversed(pair)]) in pair


@pytest.mark.parametrize(
    "label",
    [
        "left kidney", "kidney_L", "KidneyLeft", "lh.hippocampus", "Left-Lateral-Ventricle", "leftkidney", "kidneyright",
        "linke Niere", "左肾", "rim esquerdo", "rib_right_1",
        "rein gauche", "riñón izquierdo", "rinon derecho", "rene sinistro", "ren dexter", "linkes Ohr", "levá ledvina", "prawe płuco",
    ],
)  # fmt: skip
def test_a_lone_side_counts_since_the_other_one_is_background(label: str) -> None:
    assert tells_sides([label, "liver"]) == label


@pytest.mark.parametrize(
    "labels",
    [
        ["left atrium"], ["LeftVentricle", "myocardium"], ["left atrial appendage"], ["spleen", "liver"], ["tumour", "oedema"],
        ["leftover"], ["lung", "lesion", "rib"], ["L1", "L2", "L3", "S1"], ["vertebrae_L5"], ["T1", "T2"], ["lamina", "retina"],
        ["brightness", "upright"], ["cleft lip", "Bright spot"], ["LeftVentricle"], ["leftatrium"],
        ["label_1", "label_2"], ["background", "LiTS tumour"], [], ["levator ani", "gland", "lung"],
        ["solitary nodule", "drepanocyte"],
    ],
)  # fmt: skip
def test_labels_without_a_side_may_be_mirrored(labels: list[str]) -> None:
    assert tells_sides(labels) is None
